"""What the jobs of a campaign hold, and what their scores must be."""

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import ScoringJob, pairs_array

VOCABULARY = 64
FIRST_WORD = 3
"""Ids below it are special tokens of the tiny model."""


def make_content(job_id: str, run_id: str, content: int, fingerprint: str = "") -> ScoringJob:
    """The job of a content: 3 contexts, 2 responses, 4 of their pairs.

    A job whose id begins with `invalid` has a token id that is not in the vocabulary.
    """
    rng = np.random.default_rng(content)

    def ids(low: int, high: int) -> NDArray[np.int32]:
        return rng.integers(FIRST_WORD, VOCABULARY, rng.integers(low, high)).astype(np.int32)

    contexts = tuple(ids(4, 12) for _ in range(3))
    responses = tuple(ids(3, 7) for _ in range(2))
    pairs = [(0, 0), (1, 0), (2, 0), (int(rng.integers(0, 3)), 1)]
    if job_id.startswith("invalid "):
        responses[0][0] = VOCABULARY
    return ScoringJob(
        id=job_id,
        run_id=run_id,
        contexts=contexts,
        responses=responses,
        pairs=pairs_array(pairs),
        tokenizer_fingerprint=fingerprint,
    )


def scripted_scores(job: ScoringJob) -> NDArray[np.float32]:
    """What the scripted teacher answers, `[N]`: each depends on context, response and position."""
    rows = []
    for context, response in job.pairs:
        answer = job.responses[response].astype(np.int64)
        mixed = 31 * job.contexts[context].sum() + 7 * answer + np.arange(len(answer))
        rows.append(-1.0 - mixed % 997)
    return (np.concatenate(rows) / 100).astype(np.float32)


def scripted_seconds(job: ScoringJob) -> float:
    """How long the scripted teacher takes for a job."""
    return 0.02 + 0.2 * (job.tokens_computed % 8) / 8
