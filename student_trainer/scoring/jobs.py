"""Pairs to score → scoring jobs that the teacher takes, and the way back.

A job holds each context and each response once. A group whose job would be too large is divided
between contexts, so that a context is still computed once; only a context whose own pairs are too
many for a job is sent more than once.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from counterhint import Outputs, Scores, ScoringJob, ScoringResult, Weights, pairs_array
from counterhint.channel import MAX_MESSAGE_BYTES
from counterhint.errors import InputError
from counterhint.tensors import TokenIds

LARGEST_TENSORS = MAX_MESSAGE_BYTES - 1024 * 1024
"""Most bytes of arrays in one message, with room for what else it holds."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A response that the teacher reads after a context."""

    context: TokenIds
    """int32 `[C]`."""
    response: TokenIds
    """int32 `[T]`."""
    outputs: Outputs
    """What is asked for."""
    token_ids: TokenIds | None = None
    """int32 `[T, n]`: the ids to score, with `Outputs.given`."""


@dataclass(frozen=True, slots=True)
class JobFields:
    """What the jobs of a group have in common."""

    run_id: str
    """The training run."""
    name: str
    """Which group of the run, and which try."""
    fingerprint: str
    """Fingerprint of the tokenizer of the ids."""
    weights: Weights | None
    """The teacher weights wanted; None for the server's own."""


@dataclass(frozen=True, slots=True)
class PartialJob:
    """One of the jobs that score some pairs."""

    job: ScoringJob
    """The job."""
    asked_by: tuple[tuple[int, ...], ...]
    """For each pair of the job, the indices of the pairs asked for that it answers."""

    def read(self, result: ScoringResult) -> Iterator[tuple[int, Scores]]:
        """The scores of each pair asked for, by its index."""
        for pair, indices in enumerate(self.asked_by):
            scores = result.pair(pair)
            for index in indices:
                yield index, scores


def build_jobs(
    pairs: Sequence[Pair], fields: JobFields, *, max_job_tokens: int
) -> Iterator[PartialJob]:
    """The jobs that score all pairs; equal pairs are scored once.

    Args:
        pairs: what is to be scored.
        fields: what the jobs have in common. A job's id ends with a hash of its content, so that a
            resumed run finds the results of an identical group and never collides with another.
        max_job_tokens: the teacher's bound on `ScoringJob.tokens_computed`.

    Raises:
        InputError: one pair alone is too large for a job.
    """
    for outputs in dict.fromkeys(pair.outputs for pair in pairs):
        by_context: dict[bytes, dict[tuple[bytes, bytes], list[int]]] = {}
        for index, pair in enumerate(pairs):
            if pair.outputs == outputs:
                given = b"" if pair.token_ids is None else pair.token_ids.tobytes()
                same_context = by_context.setdefault(pair.context.tobytes(), {})
                same_context.setdefault((pair.response.tobytes(), given), []).append(index)
        blocks = [list(block.values()) for block in by_context.values()]
        for part in _divided(blocks, pairs, max_job_tokens):
            yield _build(part, pairs, outputs, fields)


def _divided(
    blocks: Sequence[list[list[int]]], pairs: Sequence[Pair], max_job_tokens: int
) -> Iterator[list[list[int]]]:
    """Blocks of pairs with one context, put together into parts that fit a job each."""
    part: list[list[int]] = []
    for block in blocks:
        if part and not _fits([*part, *block], pairs, max_job_tokens):
            yield part
            part = []
        if _fits([*part, *block], pairs, max_job_tokens):
            part = [*part, *block]
            continue
        for same in block:
            if not _fits([same], pairs, max_job_tokens):
                raise _too_large(pairs[same[0]], max_job_tokens)
            if not _fits([*part, same], pairs, max_job_tokens):
                yield part
                part = []
            part = [*part, same]
    if part:
        yield part


def _fits(part: Sequence[list[int]], pairs: Sequence[Pair], max_job_tokens: int) -> bool:
    used = [pairs[same[0]] for same in part]
    prompt_tokens = sum(len(context) // 4 for context in {pair.context.tobytes() for pair in used})
    response_tokens = sum(len(pair.response) for pair in used)
    if prompt_tokens + response_tokens > max_job_tokens:
        return False
    ids = 0 if used[0].token_ids is None else used[0].token_ids.shape[1]
    outputs = used[0].outputs
    numbers = outputs.sampled + outputs.entropy + 2 * outputs.top_k + ids
    # The reply's arrays with a validity mask, and the request's.
    reply = (4 * numbers + 1) * response_tokens
    request = 4 * (prompt_tokens + (1 + ids) * response_tokens)
    return max(reply, request) <= LARGEST_TENSORS


def _too_large(pair: Pair, max_job_tokens: int) -> InputError:
    return InputError(
        f"a context of {len(pair.context)} tokens and a response of {len(pair.response)} are too "
        f"large for one scoring job: the teacher takes {max_job_tokens} tokens a job, and a "
        f"message {LARGEST_TENSORS} bytes of arrays; lower rollouts.max_new_tokens or the "
        "method's top_k, or serve a teacher with a larger --max-job-tokens"
    )


def _build(
    part: Sequence[list[int]], pairs: Sequence[Pair], outputs: Outputs, fields: JobFields
) -> PartialJob:
    contexts: dict[bytes, TokenIds] = {}
    responses: dict[tuple[bytes, bytes], Pair] = {}
    table = []
    for same in part:
        pair = pairs[same[0]]
        given = b"" if pair.token_ids is None else pair.token_ids.tobytes()
        context, response = pair.context.tobytes(), (pair.response.tobytes(), given)
        contexts.setdefault(context, pair.context)
        responses.setdefault(response, pair)
        table.append((list(contexts).index(context), list(responses).index(response)))
    ids = [pair.token_ids for pair in responses.values() if pair.token_ids is not None]
    content = hashlib.sha256(repr((table, outputs, fields.weights)).encode())
    for sequence in (*contexts.values(), *(pair.response for pair in responses.values()), *ids):
        content.update(sequence.size.to_bytes(8, "little"))
        content.update(sequence.tobytes())
    job = ScoringJob(
        id=f"{fields.run_id}/{fields.name}/{content.hexdigest()[:12]}",
        run_id=fields.run_id,
        contexts=tuple(contexts.values()),
        responses=tuple(pair.response for pair in responses.values()),
        pairs=pairs_array(table),
        tokenizer_fingerprint=fields.fingerprint,
        outputs=outputs,
        token_ids=np.concatenate(ids) if ids else None,
        weights=fields.weights,
    )
    return PartialJob(job, tuple(tuple(same) for same in part))
