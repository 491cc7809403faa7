"""Measures replies on the wire: our messages against the JSON of OpenAI-compatible servers.

Both carry the same numbers for the response positions of a group's job. The JSON is what vLLM's
server sends as `prompt_logprobs`, one body a pair: a dictionary a position, with an entry `"<id>":
{"logprob": …, "rank": …, "decoded_token": …}` for the response's own token and for each of the
top k. Everything that the JSON could be spared is: the positions of the context (sent as well by
such a server), the envelope around the list, a further entry where the token is not among the top
k; a decoded token is a blank and four letters.

Encoding is from numpy arrays to bytes, decoding back again; ours with the checks of
`result_from_message`.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from counterhint.errors import InputError
from counterhint.jobs import Cost, Outputs, Scores, ScoringJob, ScoringResult
from counterhint.messages import job_to_message, result_from_message, result_to_message
from counterhint.tensors import TokenIds
from counterhint.v1 import scoring_pb2
from teacher_server.bench.job import GroupShape, group_job

_STAMPS = {
    "weights_revision": "0123456789ab",
    "tokenizer_fingerprint": "0123456789abcdef" * 4,
    "model_id": "Qwen3-8B",
    "engine": "transformers",
    "engine_version": "5.23.0",
}
"""Stamps of a reply, as long as they are in use."""
_JOB_ID = "qwen3-8b-math/update 120, group 3/0123456789ab"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReplyFigures:
    """One kind of reply, ours and as JSON."""

    bytes: int
    """Of our message."""
    bytes_per_token: float
    """A response token and pair."""
    entry_bytes: int
    """Of a top-k entry, id and log prob; 0 without top k."""
    overhead_bytes: int
    """Beyond 4 bytes a log prob and `entry_bytes` a top-k entry: stamps, ids, shapes."""
    one_pair_overhead_bytes: int
    """The same for a job of one pair: it hardly grows with the pairs."""
    json_bytes: int
    """Of the JSON bodies."""
    json_bytes_per_token: float
    """A response token and pair."""
    bytes_ratio: float
    """`json_bytes / bytes`."""
    encode_seconds: float
    """Ours; median over the repeats, like the next ones."""
    json_encode_seconds: float
    """With the dictionaries made first."""
    encode_ratio: float
    """`json_encode_seconds / encode_seconds`."""
    decode_seconds: float
    """Ours."""
    json_decode_seconds: float
    """With ids and log probs read into arrays."""
    decode_ratio: float
    """`json_decode_seconds / decode_seconds`."""


@dataclass(frozen=True, slots=True)
class WireFigures:
    """What the benchmark measured."""

    pairs: int
    """Pairs of the job."""
    response_tokens: int
    """Response tokens of all pairs."""
    request_bytes: int
    """Of the job's message."""
    request_overhead_bytes: int
    """Beyond 4 bytes for each token of each context and response, once."""
    sampled: ReplyFigures
    """A reply with the log probs of the responses' own tokens."""
    top_k: ReplyFigures
    """A reply with those and the top k."""


def bench_wire(shape: GroupShape, vocab_size: int, repeats: int) -> WireFigures:
    """Encodes and decodes a group's replies both ways, by turns, after one round to warm up.

    The shape's top k is that of one of the two replies.

    Raises:
        InputError: a group too small for its hints, or a top_k above the vocabulary.
    """
    if shape.top_k > vocab_size:
        raise InputError(f"--top-k {shape.top_k} is above --vocab-size {vocab_size}: lower it")
    job = replace(
        group_job(shape, vocab_size, _STAMPS["tokenizer_fingerprint"]),
        id=_JOB_ID,
        run_id=_JOB_ID.partition("/")[0],
        outputs=Outputs(),
    )
    request_bytes = len(job_to_message(job).SerializeToString())
    tokens_sent = int(job.context_lengths.sum() + job.response_lengths.sum())
    return WireFigures(
        pairs=len(job.pairs),
        response_tokens=int(job.pair_lengths.sum()),
        request_bytes=request_bytes,
        request_overhead_bytes=request_bytes - 4 * tokens_sent,
        sampled=_measure(job, vocab_size, repeats),
        top_k=_measure(replace(job, outputs=Outputs(top_k=shape.top_k)), vocab_size, repeats),
    )


def random_result(job: ScoringJob, vocab_size: int) -> ScoringResult:
    """Random scores for a job; the response's own token is the most probable one everywhere."""
    tokens = np.concatenate([job.responses[response] for response in job.pairs[:, 1]])
    k = job.outputs.top_k
    random = np.random.default_rng(0)
    log_probs = -np.sort(random.exponential(3.0, (len(tokens), max(k, 1))).astype(np.float32))
    steps = np.arange(k) * (vocab_size // max(k, 1))  # so that the ids of a position differ
    scores = Scores(
        sampled=log_probs[:, 0],
        top_k_ids=((tokens[:, None] + steps) % vocab_size).astype(np.int32) if k else None,
        top_k_log_probs=log_probs if k else None,
    )
    cost = Cost(job.tokens_naive, job.tokens_computed, engine_seconds=1.5, wait_seconds=0.5)
    return ScoringResult(job.id, job.pair_lengths, scores, cost=cost, **_STAMPS)


def encode_json(job: ScoringJob, result: ScoringResult) -> list[bytes]:
    """The JSON of each pair: a list of dictionaries, one a response position."""
    return [_pair_json(job, result, pair) for pair in range(len(job.pairs))]


def decode_json(bodies: Sequence[bytes]) -> tuple[TokenIds, NDArray[np.float32]]:
    """Ids and log probs `[N, entries a position]` of such bodies."""
    ids, log_probs = [], []
    for body in bodies:
        for position in json.loads(body):
            ids.append([int(token) for token in position])
            log_probs.append([entry["logprob"] for entry in position.values()])
    return np.array(ids, dtype=np.int32), np.array(log_probs, dtype=np.float32)


def _pair_json(job: ScoringJob, result: ScoringResult, pair: int) -> bytes:
    scores = result.pair(pair)
    ids, log_probs = scores.top_k_ids, scores.top_k_log_probs
    if ids is None or log_probs is None:
        assert scores.sampled is not None
        ids, log_probs = job.responses[job.pairs[pair, 1]][:, None], scores.sampled[:, None]
    positions = [
        {
            str(token): {"logprob": log_prob, "rank": rank, "decoded_token": " word"}
            for rank, (token, log_prob) in enumerate(zip(*entries, strict=True), start=1)
        }
        for entries in zip(ids.tolist(), log_probs.tolist(), strict=True)
    ]
    return json.dumps(positions, separators=(",", ":")).encode()


def _measure(job: ScoringJob, vocab_size: int, repeats: int) -> ReplyFigures:
    result = random_result(job, vocab_size)
    encode, json_encode, decode, json_decode = [], [], [], []
    for _ in range(repeats + 1):
        message, seconds = _timed(_encode, result)
        encode.append(seconds)
        _, seconds = _timed(_decode, message, job)
        decode.append(seconds)
        bodies, seconds = _timed(encode_json, job, result)
        json_encode.append(seconds)
        _, seconds = _timed(decode_json, bodies)
        json_decode.append(seconds)
    median = [statistics.median(s[1:]) for s in (encode, json_encode, decode, json_decode)]
    tokens, json_bytes = int(job.pair_lengths.sum()), sum(map(len, bodies))
    entry_bytes = _entry_bytes(message)
    one_pair = replace(job, pairs=job.pairs[:1])

    def overhead(reply: bytes, of: ScoringJob) -> int:
        return len(reply) - (4 + entry_bytes * of.outputs.top_k) * int(of.pair_lengths.sum())

    return ReplyFigures(
        bytes=len(message),
        bytes_per_token=len(message) / tokens,
        entry_bytes=entry_bytes,
        overhead_bytes=overhead(message, job),
        one_pair_overhead_bytes=overhead(_encode(random_result(one_pair, vocab_size)), one_pair),
        json_bytes=json_bytes,
        json_bytes_per_token=json_bytes / tokens,
        bytes_ratio=json_bytes / len(message),
        encode_seconds=median[0],
        json_encode_seconds=median[1],
        encode_ratio=median[1] / median[0],
        decode_seconds=median[2],
        json_decode_seconds=median[3],
        decode_ratio=median[3] / median[2],
    )


def _encode(result: ScoringResult) -> bytes:
    return result_to_message(result).SerializeToString()


def _decode(message: bytes, job: ScoringJob) -> ScoringResult:
    return result_from_message(scoring_pb2.ScoreResponse.FromString(message), job)


def _entry_bytes(message: bytes) -> int:
    """Bytes of a top-k entry in a reply: those of its two tensors' elements."""
    packed = scoring_pb2.ScoreResponse.FromString(message).scores.top_k
    entries = math.prod(packed.words.shape)
    data = len(packed.words.data) + len(packed.high_ids.data)
    return data // entries if data else 0


def _timed(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> tuple[T, float]:
    start = time.perf_counter()
    done = work(*arguments, **options)
    return done, time.perf_counter() - start
