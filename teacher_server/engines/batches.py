"""How a job is cut into batches: contexts first, then the responses that share their caches.

Rows are sorted by length and a batch is closed when it would exceed the token bound or when padding
would cost more than it saves; a small job is one context pass and one response pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import ScoringJob

PADDING_FREE = 1024
"""Padding tokens of a batch that are always accepted: less than what another pass costs."""
PADDING_SHARE = 0.25
"""Beyond that, padding may be this share of the tokens that count."""


@dataclass(frozen=True, slots=True)
class ContextBatch:
    """Contexts that are computed in one pass and then shared by their responses."""

    contexts: NDArray[np.int64]
    """`[C]`: indices into `ScoringJob.contexts`."""
    responses: tuple["ResponseBatch", ...]
    """The pairs of these contexts."""


@dataclass(frozen=True, slots=True)
class ResponseBatch:
    """Pairs whose responses are computed in one pass; none is needed when all have one token."""

    pairs: NDArray[np.int64]
    """`[P]`: indices into `ScoringJob.pairs`, sorted by context."""
    rows: NDArray[np.int64]
    """`[P]`: each pair's row in the `ContextBatch`."""


def plan_batches(job: ScoringJob, max_batch_tokens: int) -> list[ContextBatch]:
    """Cuts a job into batches of at most `max_batch_tokens` tokens, padding and cache included.

    A single row that is longer than the bound is a batch of its own.
    """
    used = np.unique(job.pairs[:, 0]).astype(np.int64)
    used = used[np.argsort(job.context_lengths[used], kind="stable")]
    batches = []
    for start, stop in _cut(job.context_lengths[used], 0, max_batch_tokens):
        contexts = used[start:stop]
        row_of = np.full(len(job.contexts), -1, dtype=np.int64)
        row_of[contexts] = np.arange(len(contexts))
        cached = int(job.context_lengths[contexts].max())
        pairs = np.flatnonzero(row_of[job.pairs[:, 0]] >= 0)
        pairs = pairs[np.argsort(job.pair_lengths[pairs], kind="stable")]
        responses = []
        for first, last in _cut(job.pair_lengths[pairs] - 1, cached, max_batch_tokens):
            rows = row_of[job.pairs[pairs[first:last], 0]]
            by_context = np.argsort(rows, kind="stable")
            responses.append(ResponseBatch(pairs[first:last][by_context], rows[by_context]))
        batches.append(ContextBatch(contexts, tuple(responses)))
    return batches


def _cut(lengths: NDArray[np.int64], cached: int, bound: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, sorted by length, that make one batch each."""
    start, tokens = 0, 0
    for index, length in enumerate(lengths.tolist()):
        rows = index - start + 1
        padding = rows * length - (tokens + length)
        if index > start and (
            rows * (cached + length) > bound
            or padding > max(PADDING_FREE, PADDING_SHARE * (tokens + length))
            or (length > 0 and lengths[start] == 0)
        ):
            yield start, index
            start, tokens = index, 0
        tokens += length
    yield start, len(lengths)
