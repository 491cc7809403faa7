"""One gRPC server under fuzz: sends calls, and says whether the answers are right."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from counterhint.channel import CHANNEL_OPTIONS
from counterhint.errors import (
    CounterhintError,
    error_from_rpc,
    failure_from_message,
)
from counterhint.jobs import ScoringJob
from counterhint.messages import (
    job_from_message,
    job_to_message,
    result_from_message,
    teacher_from_message,
)
from counterhint.v1 import scoring_pb2
from tests.fuzz import http2_frames
from tests.fuzz.documented_errors import documented
from tests.fuzz.grpc_calls import SCORE, STREAM, TEACHER, WHOLE_SECONDS, CallMaker, GrpcCall

SLACK_SECONDS = 15.0
"""How late after its deadline a call may end on a busy machine before it counts as hanging."""
LONGEST_MESSAGE = 128 << 20
"""The client's own bound, above the servers' so that they have to refuse."""
OWN_BUGS = {"SERVER_FAILED", "ENGINE_FAILED", "DEAD_LETTER", "ENGINE_DEAD", "ENGINE_HANGING"}
"""Documented reasons that no input may bring about."""
OF_GRPC = {"UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "CANCELLED", "NOT_FOUND"}
"""Statuses with which gRPC itself, or its health service, answers: without a reason of ours."""

TRIES, PAUSE = 20, 0.25
"""How often, and after how many seconds, a server is tried that cannot be reached."""
WRITTEN_TOO_LATE = "Internal error from Core"
"""What gRPC's client says of a stream that the server ended while it was being written to."""


class Finding(AssertionError):
    """Something that must not happen."""


class _NotThere(Finding):
    """No connection, as for a moment when a server is replaced; clients try again."""


class GrpcTarget:
    """A connection to a server.

    Args:
        name: for figures and messages.
        socket: where it listens.
        weights_root: the folder from which its teacher may read weights.
    """

    def __init__(self, name: str, socket: Path, weights_root: Path) -> None:
        self.name = name
        self._socket = socket
        self._weights_root = weights_root
        self._maker: CallMaker | None = None
        options: list[tuple[str, Any]] = [
            *((key, value) for key, value in CHANNEL_OPTIONS if "message_length" not in key),
            ("grpc.max_send_message_length", LONGEST_MESSAGE),
            ("grpc.max_receive_message_length", LONGEST_MESSAGE),
            ("grpc.max_metadata_size", 1 << 20),
            ("grpc.absolute_max_metadata_size", 1 << 20),
        ]
        self._channel = grpc.aio.insecure_channel(f"unix://{socket}", options=options)

    async def __aenter__(self) -> Self:
        reply = await self._channel.unary_unary(TEACHER)(b"", timeout=60.0)
        teacher = teacher_from_message(scoring_pb2.GetTeacherResponse.FromString(reply))
        self._maker = CallMaker(teacher, self._weights_root)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    def make(self, random: Random, large: bool) -> GrpcCall:
        """An input."""
        assert self._maker is not None, "the target is not open"
        return self._maker.large(random) if large else self._maker.make(random)

    async def check(self, job: ScoringJob, expected: NDArray[np.float32]) -> None:
        """Has a good job scored.

        Raises:
            Finding: other numbers than expected, or an error.
        """
        assert self._maker is not None, "the target is not open"
        job = replace(job, tokenizer_fingerprint=self._maker.teacher.tokenizer_fingerprint)
        try:
            reply = await self._channel.unary_unary(SCORE)(
                job_to_message(job).SerializeToString(), timeout=60.0, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            raise Finding(f"a good job was not scored: {error_from_rpc(error)!r}") from error
        result = result_from_message(scoring_pb2.ScoreResponse.FromString(reply), job)
        sampled = result.scores.sampled
        if sampled is None or not np.allclose(sampled, expected, atol=1e-4):
            raise Finding(f"a good job got {sampled}, not {expected}")

    async def send(self, call: GrpcCall, tries: int = TRIES) -> Sequence[str]:
        """Makes a call; gives its outcome as words for the figures, or that of each job on it.

        Raises:
            Finding: it hangs, or its answer is none that is documented.
        """
        if call.ending == "socket":
            return [await http2_frames.send(str(self._socket), call.messages[0], 0.1)]
        sending = self._streamed(call) if call.streamed else self._unary(call)
        try:
            async with asyncio.timeout(call.seconds + SLACK_SECONDS):
                return await sending
        except TimeoutError:
            raise Finding(f"the call hangs {SLACK_SECONDS} s beyond its deadline") from None
        except _NotThere:
            if tries == 1:
                raise
            await asyncio.sleep(PAUSE)
            return await self.send(call, tries - 1)

    async def _unary(self, call: GrpcCall) -> Sequence[str]:
        try:
            reply = await self._channel.unary_unary(call.method)(
                call.messages[0], timeout=call.seconds, metadata=call.metadata
            )
        except grpc.aio.AioRpcError as error:
            return [_judged(error, call)]
        except (TypeError, ValueError, grpc.aio.UsageError, grpc.aio.InternalError):
            return ["refused by the client"]
        if call.method == SCORE:
            check_answer(
                scoring_pb2.ScoreRequest.FromString(call.messages[0]),
                scoring_pb2.ScoreResponse.FromString(reply),
            )
        return ["OK"]

    async def _streamed(self, call: GrpcCall) -> Sequence[str]:
        stream = self._channel.stream_stream(call.method)(
            timeout=call.seconds, metadata=call.metadata
        )
        replies: list[bytes] = []
        try:
            for message in call.messages:
                await stream.write(message)
            if call.ending == "cancel":
                stream.cancel()
                return ["cancelled"]
            if call.ending == "whole":
                await stream.done_writing()
            while (reply := await stream.read()) is not grpc.aio.EOF:
                replies.append(reply)
            if (code := await stream.code()) != grpc.StatusCode.OK:
                raise grpc.aio.AioRpcError(
                    code,
                    await stream.initial_metadata(),
                    await stream.trailing_metadata(),
                    await stream.details(),
                )
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
            # A stream that ends while it is written to says why only here.
            ended = error if isinstance(error, grpc.aio.AioRpcError) else await _end_of(stream)
            return [_judged(ended, call)]
        return _judged_replies(call.messages, replies) if call.method == STREAM else ["OK"]


def check_answer(request: scoring_pb2.ScoreRequest, response: scoring_pb2.ScoreResponse) -> None:
    """Holds an answer against the question, which must be a job then.

    Raises:
        Finding: it is none, or the answer is for another one.
    """
    try:
        result_from_message(response, job_from_message(request))
    except CounterhintError as error:
        raise Finding(f"scores came back that do not fit the job: {error}") from error


def _judged_replies(messages: Sequence[bytes], replies: Sequence[bytes]) -> list[str]:
    jobs = [scoring_pb2.ScoreStreamRequest.FromString(message).job for message in messages]
    if len(replies) != len(jobs):
        raise Finding(f"{len(jobs)} jobs got {len(replies)} replies")
    outcomes = []
    for reply in map(scoring_pb2.ScoreStreamResponse.FromString, replies):
        if reply.WhichOneof("outcome") == "failure":
            outcomes.append(_judged_error(failure_from_message(reply.failure)))
            continue
        asked = [job for job in jobs if job.id == reply.id]
        if not any(_fits(job, reply.response) for job in asked):
            raise Finding(f"no job of the stream fits the answer to {reply.id!r}")
        outcomes.append("OK")
    return outcomes


def _fits(request: scoring_pb2.ScoreRequest, response: scoring_pb2.ScoreResponse) -> bool:
    try:
        check_answer(request, response)
    except Finding:
        return False
    return True


async def _end_of(stream: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await stream.code(),
        await stream.initial_metadata(),
        await stream.trailing_metadata(),
        await stream.details(),
    )


def _judged(error: grpc.aio.AioRpcError, call: GrpcCall) -> str:
    typed = error_from_rpc(error)
    code = error.code().name
    if error.details() == WRITTEN_TOO_LATE:
        return "ended while it was written to"
    if typed.reason == code == "UNAVAILABLE":
        raise _NotThere(f"{code}: {error.details()}")
    if typed.reason == code:  # no reason of ours
        too_short = code == "DEADLINE_EXCEEDED" and call.seconds < WHOLE_SECONDS
        if code not in OF_GRPC and not too_short:
            raise Finding(f"{code}: {error.details()}")
        return code
    return _judged_error(typed)


def _judged_error(error: CounterhintError) -> str:
    code = error.code.name
    if (code, error.reason) not in documented() or error.reason in OWN_BUGS:
        raise Finding(f"{code} {error.reason}: {error.message[:500]}")
    return f"{code} {error.reason}"
