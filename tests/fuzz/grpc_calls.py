"""The gRPC calls of a campaign: which method, which bytes, how the client behaves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from counterhint.channel import MAX_MESSAGE_BYTES, SERVICE_NAME
from counterhint.jobs import Outputs, ScoringJob, TeacherInfo, Weights, pairs_array
from counterhint.messages import job_to_message, weights_to_message
from counterhint.v1 import scoring_pb2
from tests.fuzz import http2_frames
from tests.fuzz.mutations import FLOATS, TEXTS, mutate_bytes, mutate_fields, odd_text

SCORE = f"/{SERVICE_NAME}/Score"
STREAM = f"/{SERVICE_NAME}/ScoreStream"
TEACHER = f"/{SERVICE_NAME}/GetTeacher"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WHOLE_SECONDS = 30.0
"""The deadline of calls that must be answered."""


@dataclass(frozen=True)
class GrpcCall:
    """One call."""

    kind: str
    """How it was made, for the figures."""
    method: str
    """Its path."""
    messages: tuple[bytes, ...]
    """What the client sends."""
    streamed: bool = False
    """Whether it is sent, and answered, as a stream."""
    ending: str = "whole"
    """whole: half-closes and reads all; cancel: cancels after sending; silent: sends no end;
    socket: the one message is what goes over a connection of its own."""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    """Headers beside gRPC's own."""
    seconds: float = WHOLE_SECONDS
    """The client's deadline."""


@dataclass(frozen=True)
class CallMaker:
    """Makes calls for a teacher.

    Args:
        teacher: whose jobs are mutated.
        weights_root: the folder from which the teacher may read weights.
    """

    teacher: TeacherInfo
    weights_root: Path
    kinds: dict[str, int] = field(
        default_factory=lambda: {
            "valid": 6,
            "fields": 40,
            "bytes": 18,
            "crafted": 14,
            "weights": 6,
            "stream": 10,
            "garbage": 3,
            "method": 2,
            "metadata": 2,
            "health": 1,
            "reflection": 1,
        }
    )
    """How often each kind is made, as a share of their sum."""

    def make(self, random: Random) -> GrpcCall:
        """The next call."""
        (kind,) = random.choices(list(self.kinds), list(self.kinds.values()))
        call: GrpcCall = getattr(self, f"_{kind}")(random)
        if random.random() < 0.02:
            call = replace(call, seconds=random.choice((0.0, 0.001, 0.02)))
        return replace(call, kind=kind)

    def large(self, random: Random) -> GrpcCall:
        """A call of many megabytes, which are too slow to be sent often."""
        message = job_to_message(self._job(random))
        match random.randrange(6):
            case 0:
                message.id = "i" * 10_000_000
            case 1:
                message.tokenizer_fingerprint = "\x01" * 30_000_000
            case 2:  # empty sequences, a byte each
                message.responses.lengths.extend([0] * 20_000_000)
            case 3:
                message.pairs.shape.extend([2**32 - 1] * 200_000)
            case 4:
                message.contexts.token_ids = bytes(MAX_MESSAGE_BYTES)  # above the limit as a whole
            case _:
                count = 1_000_000
                message.responses.lengths[:] = [1] * count
                message.responses.token_ids = bytes(4 * count)
        return GrpcCall("large", SCORE, (message.SerializeToString(),), seconds=2 * WHOLE_SECONDS)

    def _job(self, random: Random) -> ScoringJob:
        contexts = [random.randrange(1, 12) for _ in range(random.randrange(1, 4))]
        responses = [random.randrange(1, 8) for _ in range(random.randrange(1, 3))]
        every = [(c, r) for c in range(len(contexts)) for r in range(len(responses))]
        pairs = random.sample(every, random.randrange(1, len(every) + 1))
        given = random.choice((0, 0, 1, 3))
        ids = np.random.default_rng(random.randrange(2**32))

        def sequence(*shape: int) -> np.ndarray:
            return ids.integers(0, self.teacher.vocab_size, shape).astype(np.int32)

        return ScoringJob(
            # Few enough that some are known with other content.
            id=f"job-{random.randrange(20_000)}",
            run_id=f"run-{random.randrange(20)}",
            contexts=tuple(sequence(length) for length in contexts),
            responses=tuple(sequence(length) for length in responses),
            pairs=pairs_array(pairs),
            tokenizer_fingerprint=self.teacher.tokenizer_fingerprint,
            outputs=Outputs(
                sampled=True,
                top_k=random.choice((0, 0, 3)),
                given=given > 0,
                entropy=random.random() < 0.3,
            ),
            token_ids=sequence(sum(responses), given) if given else None,
            priority=random.randrange(4),
        )

    def _valid(self, random: Random) -> GrpcCall:
        return _unary(job_to_message(self._job(random)))

    def _fields(self, random: Random) -> GrpcCall:
        message = job_to_message(self._job(random))
        mutate_fields(random, message, random.choice((1, 1, 2, 5)))
        return _unary(message)

    def _bytes(self, random: Random) -> GrpcCall:
        data = job_to_message(self._job(random)).SerializeToString()
        method = random.choice((SCORE, SCORE, SCORE, TEACHER))
        return GrpcCall("", method, (mutate_bytes(random, data),))

    def _crafted(self, random: Random) -> GrpcCall:
        """Jobs with one thing that nothing but its meaning tells from a good one."""
        message = job_to_message(self._job(random))
        match random.randrange(11):
            case 0:
                message.outputs.top_k = random.choice((129, 2**31, 2**32 - 1))
            case 1:
                message.priority = random.choice((-(2**31), -1, 4, 2**31 - 1))
            case 2:
                message.id = odd_text(random)
            case 3:
                message.run_id = odd_text(random)
            case 4:
                wrong = random.choice((-1, self.teacher.vocab_size, 2**31 - 1, -(2**31)))
                message.contexts.token_ids = wrong.to_bytes(4, "little", signed=True) + bytes(
                    message.contexts.token_ids[4:]
                )
            case 5:
                wrong = random.choice((-1, 3, 2**31 - 1, -(2**31)))
                message.pairs.data = wrong.to_bytes(4, "little", signed=True) + bytes(
                    message.pairs.data[4:]
                )
            case 6:
                shape = random.choice(
                    ([], [0], [0, 2**32 - 1], [2**32 - 1] * 2, [1] * 60, [2] * 500, [0] * 2000)
                )
                tensor = random.choice((message.pairs, message.token_ids))
                tensor.shape[:] = shape
            case 7:
                message.responses.lengths[:] = random.choice(
                    ([], [0], [2**32 - 1], [2**31] * 3, [1] * 5_000, [0] * 100_000)
                )
            case 8:  # longer than the model takes
                message.contexts.lengths[:] = [self.teacher.max_model_len]
                message.contexts.token_ids = bytes(4 * self.teacher.max_model_len)
                message.pairs.shape[:], message.pairs.data = [1, 2], bytes(8)
            case 9:
                message.tokenizer_fingerprint = odd_text(random)
            case _:
                message = scoring_pb2.ScoreRequest()
        return _unary(message)

    def _weights(self, random: Random) -> GrpcCall:
        """Jobs whose weights are somewhere that they must not be."""
        message = job_to_message(self._job(random))
        root = self.weights_root
        uri = random.choice(
            (
                f"file://{root}/here.safetensors",
                f"file://{root}/link.safetensors",
                f"file://{root}/loop.safetensors",
                f"file://{root}/no-safetensors.safetensors",
                f"file://{root}/folder.safetensors",
                f"file://{root}/../outside.safetensors",
                f"file://{root}/%2e%2e/outside.safetensors",
                f"file://{root}/a%00b.safetensors",
                f"file://{root}/{'x' * 300}.safetensors",
                f"file://{root}/{'x/' * 2100}x.safetensors",
                "file:///etc/passwd",
                "file:///dev/zero",
                "file:///proc/self/mem.safetensors",
                f"file://other.host{root}/here.safetensors",
                "http://127.0.0.1:1/x.safetensors",
                "file://[::1/x.safetensors",
                "file://\u2100/x.safetensors",
                "file:relative.safetensors",
                odd_text(random),
            )
        )
        sha256 = random.choice(("", "0" * 64, "é" * 32, odd_text(random)))
        weights = Weights(random.choice(TEXTS), random.choice(TEXTS), uri, sha256)
        message.weights.CopyFrom(weights_to_message(weights))
        return _unary(message)

    def _stream(self, random: Random) -> GrpcCall:
        requests: list[bytes] = []
        for _ in range(random.randrange(7)):
            single = getattr(self, f"_{random.choice(('valid', 'fields', 'crafted', 'weights'))}")
            request = scoring_pb2.ScoreStreamRequest(timeout_seconds=5.0)
            request.job.MergeFromString(single(random).messages[0])
            if random.random() < 0.3:
                request.timeout_seconds = random.choice(FLOATS)
            data = request.SerializeToString()
            requests.append(mutate_bytes(random, data) if random.random() < 0.1 else data)
        ending = random.choice(("whole", "whole", "whole", "cancel", "silent"))
        return GrpcCall(
            *("", STREAM, tuple(requests), True, ending),
            seconds=1.0 if ending == "silent" else WHOLE_SECONDS,
        )

    def _garbage(self, random: Random) -> GrpcCall:
        method = random.choice((SCORE, STREAM, TEACHER, "/x"))
        data = http2_frames.garbage(random, method, self._valid(random).messages[0])
        return GrpcCall("", method, (data,), ending="socket")

    def _method(self, random: Random) -> GrpcCall:
        method = random.choice(
            (
                "/",
                "//",
                "/x/y",
                f"/{SERVICE_NAME}/",
                f"/{SERVICE_NAME}/score",
                f"/{SERVICE_NAME}/Score/",
                "/grpc.health.v1.Health/Nothing",
                "/" + "m" * random.choice((10, 1_000, 7_000)),
                "/" + "".join(chr(random.randrange(33, 127)) for _ in range(20)),
            )
        )
        return GrpcCall("", method, (random.randbytes(20),), streamed=random.random() < 0.5)

    def _metadata(self, random: Random) -> GrpcCall:
        metadata = random.choice(
            (
                (("authorization", "Bearer nonsense"),),
                (("authorization", ""), ("authorization", "Basic eDp5")),
                (("x-request-id", "r" * random.choice((10, 3_000, 7_900, 9_000, 70_000))),),
                (("x-request-id", "../../x {} %s %n \t ~"),),
                (("traceparent", "00-zz-zz-zz"), ("tracestate", "=" * 600)),
                (("traceparent", f"00-{'0' * 32}-{'0' * 16}-01"),),
                (("data-bin", random.randbytes(50)),),
                (("grpc-encoding", "brotli"), ("te", "nothing")),
                tuple((f"h{number}", "v") for number in range(random.choice((50, 150)))),
            )
        )
        return replace(self._valid(random), metadata=metadata)

    def _health(self, random: Random) -> GrpcCall:
        message = health_pb2.HealthCheckRequest(service=random.choice((*TEXTS, SERVICE_NAME)))
        data = message.SerializeToString()
        data = mutate_bytes(random, data) if random.random() < 0.3 else data
        return GrpcCall("", CHECK, (data,))

    def _reflection(self, random: Random) -> GrpcCall:
        name = random.choice((*TEXTS, SERVICE_NAME))
        messages = [
            reflection_pb2.ServerReflectionRequest(host=odd_text(random), list_services="x"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
            reflection_pb2.ServerReflectionRequest(file_by_filename=odd_text(random)),
        ]
        chosen = random.sample(messages, random.randrange(1, 4))
        return GrpcCall("", REFLECTION, _serialized(chosen), streamed=True)


def _unary(message: Message) -> GrpcCall:
    return GrpcCall("", SCORE, (message.SerializeToString(),))


def _serialized(messages: Sequence[Message]) -> tuple[bytes, ...]:
    return tuple(message.SerializeToString() for message in messages)
