import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint import Outputs, Scores, ScoringJob, ScoringResult
from counterhint.errors import InputError
from counterhint.jobs import Cost
from counterhint.messages import job_from_message, job_to_message
from student_trainer.scoring.jobs import LARGEST_TENSORS, JobFields, Pair, build_jobs

FIELDS = JobFields("run", "group", "f" * 64, None)
SAMPLED = Outputs(sampled=True)

sequences = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(
    lambda ids: np.array(ids, dtype=np.int32)
)


@st.composite
def some_pairs(draw: st.DrawFn) -> list[Pair]:
    contexts = draw(st.lists(sequences, min_size=1, max_size=3))
    pairs = []
    for _ in range(draw(st.integers(1, 8))):
        response = draw(sequences)
        given_ids = draw(st.booleans())
        ids = np.stack([response, response + draw(st.integers(0, 1))], axis=1)
        pairs.append(
            Pair(
                draw(st.sampled_from(contexts)),
                response,
                Outputs(sampled=True, given=given_ids),
                ids if given_ids else None,
            )
        )
    return pairs


def answer(job: ScoringJob) -> ScoringResult:
    """Scores that tell context, response and ids of each position."""
    starts = np.concatenate([[0], np.cumsum(job.response_lengths)])
    sampled, given_ids = [], []
    for context, response in job.pairs.tolist():
        seen = hash(job.contexts[context].tobytes()) % 1000
        sampled.append(job.responses[response] + seen)
        if job.token_ids is not None:
            given_ids.append(job.token_ids[starts[response] : starts[response + 1]] + seen)
    scores = Scores(
        sampled=np.concatenate(sampled).astype(np.float32),
        given=np.concatenate(given_ids).astype(np.float32) if given_ids else None,
    )
    return ScoringResult(job.id, job.pair_lengths, scores, "", "", "", "", "", Cost(0, 0))


@given(pairs=some_pairs(), bound=st.integers(8, 40))
def test_every_pair_gets_its_own_scores_from_jobs_within_the_bound(
    pairs: list[Pair], bound: int
) -> None:
    found = {}
    for part in build_jobs(pairs, FIELDS, max_job_tokens=bound):
        job = job_from_message(job_to_message(part.job))
        assert job.tokens_computed <= bound
        assert len({tuple(pair) for pair in job.pairs.tolist()}) == len(job.pairs)
        found.update(part.read(answer(job)))
    assert sorted(found) == list(range(len(pairs)))
    for index, pair in enumerate(pairs):
        seen = hash(pair.context.tobytes()) % 1000
        assert np.array_equal(found[index].sampled, pair.response + np.float32(seen))
        if pair.token_ids is not None:
            assert np.array_equal(found[index].given, pair.token_ids + np.float32(seen))


def test_a_reply_stays_below_what_a_message_holds() -> None:
    outputs = Outputs(sampled=False, top_k=100)
    response = np.zeros(30_000, dtype=np.int32)
    pairs = [
        Pair(np.array([context], dtype=np.int32), response + number, outputs)
        for context in range(2)
        for number in range(3)
    ]
    parts = list(build_jobs(pairs, FIELDS, max_job_tokens=10**9))
    for part in parts:
        assert 8 * 100 * int(part.job.pair_lengths.sum()) <= LARGEST_TENSORS
    # 24 MB a pair: two of a context's three fit.
    assert [len(part.job.pairs) for part in parts] == [2, 1, 2, 1]


def test_one_response_whose_reply_no_message_holds_is_bad_input() -> None:
    response = np.zeros(100_000, dtype=np.int32)
    pair = Pair(response[:1], response, Outputs(sampled=False, top_k=100))
    with pytest.raises(InputError, match=r"response of 100000 are too large.*top_k"):
        list(build_jobs([pair], FIELDS, max_job_tokens=10**9))


def test_nothing_to_score_is_no_job() -> None:
    assert list(build_jobs([], FIELDS, max_job_tokens=1)) == []
