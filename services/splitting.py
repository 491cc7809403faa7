"""Large jobs: divided by context into parts, and the parts' results put together again.

All pairs of one context stay together, so that no context is read twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import Cost, Missing, Scores, ScoringJob, ScoringResult
from counterhint.tensors import TokenIds

ARRAYS = ("sampled", "top_k_ids", "top_k_log_probs", "given", "entropy")
"""The arrays of `Scores` that hold a row for each response token."""


@dataclass(frozen=True)
class Part:
    """A job that scores some of another job's pairs."""

    job: ScoringJob
    """The part as a job of its own."""
    pairs: NDArray[np.int64]
    """`[p]`: the pairs that it scores, as ascending indices into the whole job's."""


def split_by_context(job: ScoringJob, max_tokens: int, part_id: str) -> list[Part]:
    """Parts of about equal size, none above the bound unless one context alone is.

    Args:
        job: the whole.
        max_tokens: bound on `ScoringJob.tokens_computed` of a part.
        part_id: what the parts' ids begin with.
    """
    shares = job.context_shares
    loads = [0] * -(-job.tokens_computed // max_tokens)
    part_of = np.zeros(len(job.contexts), dtype=np.int64)
    for context in np.argsort(-shares, kind="stable").tolist():  # the largest first
        lightest = loads.index(min(loads))
        if loads[lightest] and loads[lightest] + shares[context] > max_tokens:
            lightest = len(loads)
            loads.append(0)
        loads[lightest] += int(shares[context])
        part_of[context] = lightest
    used = [number for number, load in enumerate(loads) if load]
    return [
        _part(
            job,
            np.flatnonzero(part_of[job.pairs[:, 0]] == number),
            f"{part_id}/part-{position}-of-{len(used)}",
        )
        for position, number in enumerate(used, start=1)
    ]


def _part(job: ScoringJob, pairs: NDArray[np.int64], part_id: str) -> Part:
    contexts, context_of = np.unique(job.pairs[pairs, 0], return_inverse=True)
    responses, response_of = np.unique(job.pairs[pairs, 1], return_inverse=True)
    part = replace(
        job,
        id=part_id,
        contexts=tuple(job.contexts[context] for context in contexts),
        responses=tuple(job.responses[response] for response in responses),
        pairs=np.stack([context_of, response_of], axis=1).astype(np.int32),
        token_ids=_given_rows(job, responses),
    )
    return Part(part, pairs)


def _given_rows(job: ScoringJob, responses: NDArray[np.int32]) -> TokenIds | None:
    """The rows of `token_ids` of some responses, or None when the job has none."""
    if job.token_ids is None:
        return None
    return job.token_ids[_row_numbers(job.response_lengths, responses)]


def _row_numbers(lengths: NDArray[np.int64], chosen: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where the rows of chosen blocks lie when blocks of these lengths lie one after another."""
    ends = np.cumsum(lengths)
    return np.concatenate([np.arange(ends[i] - lengths[i], ends[i]) for i in chosen.tolist()])


def merge_results(
    job: ScoringJob, parts: Sequence[Part], results: Sequence[ScoringResult]
) -> ScoringResult:
    """The result of a job from those of its parts, which must be of the same weights.

    Rows are copied as they are. Tokens and engine seconds are added up; the parts wait side by
    side, so the longest wait counts.
    """
    rows = [_row_numbers(job.pair_lengths, part.pairs) for part in parts]
    total = int(job.pair_lengths.sum())
    arrays = {}
    for name in ARRAYS:
        pieces = [getattr(result.scores, name) for result in results]
        if pieces[0] is not None:
            arrays[name] = np.empty((total, *pieces[0].shape[1:]), dtype=pieces[0].dtype)
            for where, piece in zip(rows, pieces, strict=True):
                arrays[name][where] = piece
    valid = None
    if any(result.scores.valid is not None for result in results):
        valid = np.ones(total, dtype=np.bool_)
        for where, result in zip(rows, results, strict=True):
            valid[where] = True if result.scores.valid is None else result.scores.valid
    missing = [
        Missing(int(part.pairs[one.pair]), one.reason)
        for part, result in zip(parts, results, strict=True)
        for one in result.scores.missing
    ]
    costs = [result.cost for result in results]
    return replace(
        results[0],
        job_id=job.id,
        pair_lengths=job.pair_lengths,
        scores=Scores(
            **arrays, valid=valid, missing=tuple(sorted(missing, key=lambda one: one.pair))
        ),
        cost=Cost(
            tokens_naive=sum(cost.tokens_naive for cost in costs),
            tokens_computed=sum(cost.tokens_computed for cost in costs),
            engine_seconds=sum(cost.engine_seconds for cost in costs),
            wait_seconds=max(cost.wait_seconds for cost in costs),
        ),
    )
