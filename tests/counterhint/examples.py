"""Jobs, teachers and results: fixed ones, and hypothesis strategies for arbitrary ones."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from counterhint.jobs import (
    Cost,
    Missing,
    Outputs,
    Scores,
    ScoringJob,
    ScoringResult,
    TeacherInfo,
    Weights,
    pairs_array,
)

TEACHER = TeacherInfo(
    model_id="example",
    weights_revision="r0",
    tokenizer_fingerprint="f" * 64,
    vocab_size=1000,
    max_model_len=64,
    max_top_k=8,
    engine="example",
    engine_version="1",
    max_job_tokens=200,
)


def make_job(job_id: str = "job", **changes: object) -> ScoringJob:
    """Two contexts and two responses of different lengths, three of their four pairs."""
    fields: dict[str, object] = {
        "id": job_id,
        "run_id": "run",
        "contexts": (np.array([1, 2, 3], dtype=np.int32), np.array([4], dtype=np.int32)),
        "responses": (np.array([5, 6], dtype=np.int32), np.array([7], dtype=np.int32)),
        "pairs": pairs_array([(0, 0), (1, 0), (1, 1)]),
        "tokenizer_fingerprint": TEACHER.tokenizer_fingerprint,
    }
    return ScoringJob(**{**fields, **changes})  # type: ignore[arg-type]


def make_result(job: ScoringJob) -> ScoringResult:
    """Scores that name the position they stand at: -1, -2, … over all pairs."""
    rows = int(job.pair_lengths.sum())
    return ScoringResult(
        job_id=job.id,
        pair_lengths=job.pair_lengths,
        scores=Scores(sampled=-np.arange(1, rows + 1, dtype=np.float32)),
        weights_revision=TEACHER.weights_revision,
        tokenizer_fingerprint=TEACHER.tokenizer_fingerprint,
        model_id=TEACHER.model_id,
        engine=TEACHER.engine,
        engine_version=TEACHER.engine_version,
        cost=Cost(job.tokens_naive, job.tokens_computed),
    )


def log_probs(shape: int | tuple[int, ...]) -> st.SearchStrategy[NDArray[np.float32]]:
    """Float32 arrays of log probs that top-k entries carry without rounding."""
    elements = st.just(0.0) | st.floats(-100, -(2.0**-30), width=32)
    return st_numpy.arrays(np.float32, shape, elements=elements)


existing_ids = st.integers(0, 2**18 - 1) | st.integers(0, 2**31 - 1)
"""Ids of a usual vocabulary, and all others that there can be."""


def token_ids(shape: int | tuple[int, ...]) -> st.SearchStrategy[NDArray[np.int32]]:
    """int32 arrays of any value: only a teacher knows which ids exist."""
    return st_numpy.arrays(np.int32, shape)


sequences = st.lists(st.integers(1, 6).flatmap(token_ids), min_size=1, max_size=4).map(tuple)


@st.composite
def jobs(draw: st.DrawFn) -> ScoringJob:
    """Every job that the contract allows, in small."""
    contexts, responses = draw(sequences), draw(sequences)
    pair = st.tuples(st.integers(0, len(contexts) - 1), st.integers(0, len(responses) - 1))
    outputs = draw(
        st.builds(
            Outputs,
            sampled=st.booleans(),
            top_k=st.integers(0, 3),
            given=st.booleans(),
            entropy=st.booleans(),
        ).filter(lambda outputs: outputs != Outputs(sampled=False))
    )
    rows = sum(len(response) for response in responses)
    return ScoringJob(
        id=draw(st.text(min_size=1)),
        run_id=draw(st.text()),
        contexts=contexts,
        responses=responses,
        pairs=pairs_array(draw(st.lists(pair, min_size=1, max_size=6))),
        tokenizer_fingerprint=draw(st.text()),
        outputs=outputs,
        token_ids=draw(token_ids((rows, draw(st.integers(1, 3))))) if outputs.given else None,
        weights=draw(
            st.none()
            | st.builds(
                Weights, name=st.text(), revision=st.text(), uri=st.text(), sha256=st.text()
            )
        ),
        priority=draw(st.integers(-(2**31), 2**31 - 1)),
    )


@st.composite
def answered_jobs(draw: st.DrawFn) -> tuple[ScoringJob, ScoringResult]:
    """A job and a result that answers it, perhaps with pairs that could not be scored."""
    job = draw(jobs())
    lengths, outputs = job.pair_lengths, job.outputs
    rows = int(lengths.sum())
    missing = sorted(draw(st.sets(st.integers(0, len(lengths) - 1))))
    valid = np.repeat(~np.isin(np.arange(len(lengths)), missing), lengths)

    def with_gaps(*columns: int) -> NDArray[np.float32]:
        array = draw(log_probs((rows, *columns)))
        array[~valid] = np.nan
        return array

    top_k_ids = draw(st_numpy.arrays(np.int32, (rows, outputs.top_k), elements=existing_ids))
    top_k_ids[~valid] = -1
    scores = Scores(
        sampled=with_gaps() if outputs.sampled else None,
        top_k_ids=top_k_ids if outputs.top_k else None,
        top_k_log_probs=with_gaps(outputs.top_k) if outputs.top_k else None,
        given=with_gaps(job.token_ids.shape[1]) if job.token_ids is not None else None,
        entropy=with_gaps() if outputs.entropy else None,
        valid=valid if missing else None,
        missing=tuple(Missing(pair, draw(st.text())) for pair in missing),
    )
    result = ScoringResult(
        job_id=job.id,
        pair_lengths=lengths,
        scores=scores,
        weights_revision=draw(st.text()),
        tokenizer_fingerprint=draw(st.text()),
        model_id=draw(st.text()),
        engine=draw(st.text()),
        engine_version=draw(st.text()),
        cost=Cost(
            tokens_naive=draw(st.integers(0, 2**64 - 1)),
            tokens_computed=draw(st.integers(0, 2**64 - 1)),
            engine_seconds=draw(st.floats(0, 1e6)),
            wait_seconds=draw(st.floats(0, 1e6)),
            pairs_cached=draw(st.integers(0, 2**64 - 1)),
            tokens_cached=draw(st.integers(0, 2**64 - 1)),
        ),
    )
    return job, result
