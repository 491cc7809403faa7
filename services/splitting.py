"""Large jobs: divided by context into parts, and the parts' results put together again.

All pairs of one context stay together, so that no context is read twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import (
    SCORE_ARRAYS,
    Cost,
    Missing,
    Scores,
    ScoringJob,
    ScoringResult,
    rows_of,
)


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
    parts = []
    for position, number in enumerate(used, start=1):
        pairs = np.flatnonzero(part_of[job.pairs[:, 0]] == number)
        name = f"{part_id}/part-{position}-of-{len(used)}"
        parts.append(Part(replace(job.part(pairs), id=name), pairs))
    return parts


def merge_results(
    job: ScoringJob, parts: Sequence[Part], results: Sequence[ScoringResult]
) -> ScoringResult:
    """The result of a job from those of its parts, which must be of the same weights.

    Rows are copied as they are. Tokens, pairs and engine seconds are added up; the parts wait side
    by side, so the longest wait counts.
    """
    rows = [rows_of(job.pair_lengths, part.pairs) for part in parts]
    total = int(job.pair_lengths.sum())
    arrays = {}
    for name in SCORE_ARRAYS:
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
            pairs_cached=sum(cost.pairs_cached for cost in costs),
            tokens_cached=sum(cost.tokens_cached for cost in costs),
        ),
    )
