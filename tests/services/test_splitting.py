"""Jobs in parts: nothing is lost, doubled or mixed up, and rows come back as they were."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterhint.jobs import Cost, Missing, Outputs, Scores, ScoringJob, ScoringResult, pairs_array
from counterhint.messages import (
    job_from_message,
    job_to_message,
    result_from_message,
    result_to_message,
)
from services.splitting import merge_results, split_by_context

TOP_K, GIVEN = 3, 2


@st.composite
def jobs(draw: st.DrawFn) -> ScoringJob:
    """Jobs whose tokens are all different, so that none can be taken for another."""
    contexts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    responses = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    every_pair = [(c, r) for c in range(len(contexts)) for r in range(len(responses))]
    pairs = draw(st.lists(st.sampled_from(every_pair), min_size=1, max_size=12))
    outputs = draw(
        st.builds(
            Outputs,
            sampled=st.booleans(),
            top_k=st.sampled_from([0, TOP_K]),
            given=st.booleans(),
            entropy=st.just(True),
        )
    )
    numbers = iter(range(1000))

    def tokens(count: int) -> np.ndarray:
        return np.array([next(numbers) for _ in range(count)], dtype=np.int32)

    return ScoringJob(
        id="job",
        run_id="run",
        contexts=tuple(tokens(length) for length in contexts),
        responses=tuple(tokens(length) for length in responses),
        pairs=pairs_array(pairs),
        tokenizer_fingerprint="f",
        outputs=outputs,
        token_ids=tokens(GIVEN * sum(responses)).reshape(-1, GIVEN) if outputs.given else None,
        priority=draw(st.integers(0, 3)),
    )


def scored(job: ScoringJob, missing_context: int | None) -> ScoringResult:
    """Scores that say of which context, response token and given id they are.

    Pairs of the context with this first token are missing.
    """
    rows, ids, missing, valid = [], [], [], []
    starts = np.cumsum(job.response_lengths) - job.response_lengths
    for number, (context, response) in enumerate(job.pairs.tolist()):
        first, length = int(job.contexts[context][0]), len(job.responses[response])
        lost = first == missing_context
        rows.append(-np.float32(first) * 100 - job.responses[response].astype(np.float32))
        if lost:
            rows[-1] = np.full(length, np.nan, dtype=np.float32)
            missing.append(Missing(number, "LOST"))
        valid.append(np.full(length, not lost))
        if job.token_ids is not None:
            ids.append(job.token_ids[starts[response] : starts[response] + length])
    values = np.concatenate(rows)
    asked = job.outputs
    spread = np.arange(TOP_K, dtype=np.float32)
    scores = Scores(
        sampled=values if asked.sampled else None,
        top_k_ids=np.where(np.isnan(values)[:, None], -1, np.arange(TOP_K, dtype=np.int32))
        if asked.top_k
        else None,
        top_k_log_probs=values[:, None] - spread if asked.top_k else None,
        given=values[:, None] - np.concatenate(ids).astype(np.float32) if asked.given else None,
        entropy=values + 0.5,
        valid=np.concatenate(valid) if missing else None,
        missing=tuple(missing),
    )
    cost = Cost(job.tokens_naive, job.tokens_computed - 1, 0.5, len(job.contexts), 2, 1)
    return ScoringResult(job.id, job.pair_lengths, scores, "r", "f", "model", "script", "1", cost)


def raw(scores: Scores) -> dict[str, tuple[object, ...] | None]:
    """Types, shapes and bytes."""
    arrays = {name: getattr(scores, name) for name in Scores.__dataclass_fields__}
    del arrays["missing"]
    return {
        name: None if array is None else (array.dtype, array.shape, array.tobytes())
        for name, array in arrays.items()
    }


@settings(max_examples=150, deadline=None)
@given(job=jobs(), max_tokens=st.integers(1, 60), missing=st.booleans())
def test_parts_put_together_are_the_whole_bit_by_bit(
    job: ScoringJob, max_tokens: int, missing: bool
) -> None:
    missing_context = int(job.contexts[job.pairs[0, 0]][0]) if missing else None
    parts = split_by_context(job, max_tokens, "job")
    results = []
    for part in parts:
        sent = job_from_message(job_to_message(part.job))
        answer = result_to_message(scored(sent, missing_context))
        results.append(result_from_message(answer, part.job))
    merged = merge_results(job, parts, results)
    whole = scored(job, missing_context)
    assert raw(merged.scores) == raw(whole.scores)
    assert merged.scores.missing == whole.scores.missing
    assert merged.job_id == job.id
    np.testing.assert_array_equal(merged.pair_lengths, job.pair_lengths)
    assert merged.cost.tokens_naive == job.tokens_naive
    assert merged.cost.tokens_computed == job.tokens_computed - len(parts)
    assert (merged.cost.pairs_cached, merged.cost.tokens_cached) == (2 * len(parts), len(parts))
    assert merged.cost.engine_seconds == 0.5 * len(parts)
    assert merged.cost.wait_seconds == max(len(part.job.contexts) for part in parts)


@settings(max_examples=150, deadline=None)
@given(job=jobs(), max_tokens=st.integers(1, 60))
def test_a_context_s_pairs_stay_together_and_parts_keep_the_bound(
    job: ScoringJob, max_tokens: int
) -> None:
    parts = split_by_context(job, max_tokens, "job")
    indices = np.concatenate([part.pairs for part in parts])
    np.testing.assert_array_equal(np.sort(indices), np.arange(len(job.pairs)))
    used = [set(job.pairs[part.pairs, 0].tolist()) for part in parts]
    assert sum(map(len, used)) == len(set().union(*used))
    for part in parts:
        assert part.job.tokens_computed <= max_tokens or len(part.job.contexts) == 1
        assert (np.diff(part.pairs) > 0).all()
        for (context, response), index in zip(part.job.pairs, part.pairs, strict=True):
            whole = job.pairs[index]
            np.testing.assert_array_equal(part.job.contexts[context], job.contexts[whole[0]])
            np.testing.assert_array_equal(part.job.responses[response], job.responses[whole[1]])
    assert sum(part.job.tokens_computed for part in parts) == job.tokens_computed
    assert len({part.job.id for part in parts}) == len(parts)


def even_job(contexts: int, context_tokens: int) -> ScoringJob:
    return ScoringJob(
        id="job",
        run_id="run",
        contexts=tuple(np.full(context_tokens, c, dtype=np.int32) for c in range(contexts)),
        responses=(np.arange(10, dtype=np.int32),),
        pairs=pairs_array([(context, 0) for context in range(contexts)]),
        tokenizer_fingerprint="f",
        priority=2,
    )


def test_parts_are_of_about_equal_size_and_named_after_the_job() -> None:
    parts = split_by_context(even_job(9, 90), 500, "job/delivery-1")
    assert [part.job.tokens_computed for part in parts] == [500, 400]
    assert [part.job.id for part in parts] == [
        "job/delivery-1/part-1-of-2",
        "job/delivery-1/part-2-of-2",
    ]
    assert {(part.job.run_id, part.job.priority) for part in parts} == {("run", 2)}


def test_a_job_within_the_bound_is_one_part() -> None:
    job = even_job(3, 90)
    (part,) = split_by_context(job, 300, "job")
    np.testing.assert_array_equal(part.job.pairs, job.pairs)


@pytest.mark.parametrize("bits", [0x80000000, 0x7FC00001, 0xFFC12345])
def test_minus_zero_and_every_kind_of_nan_come_back_as_they_were(bits: int) -> None:
    job = even_job(2, 5)
    parts = split_by_context(job, 15, "job")
    value = np.array([bits], dtype=np.uint32).view(np.float32)
    results = []
    for part in parts:
        result = scored(part.job, None)
        sampled = np.repeat(value, len(result.scores.entropy))
        results.append(replace(result, scores=replace(result.scores, sampled=sampled)))
    merged = merge_results(job, parts, results)
    np.testing.assert_array_equal(merged.scores.sampled.view(np.uint32), np.full(20, bits))
