import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.errors import EngineFailure, InvalidJob
from counterhint.jobs import (
    Missing,
    Outputs,
    Scores,
    ScoringJob,
    ScoringResult,
    TeacherInfo,
    pairs_array,
)
from counterhint.messages import (
    job_from_message,
    job_to_message,
    result_from_message,
    result_to_message,
    teacher_from_message,
    teacher_to_message,
)
from counterhint.tensors import encode_tensor
from counterhint.top_k import encode_top_k
from counterhint.v1 import scoring_pb2
from tests.counterhint.damage import damaged
from tests.counterhint.examples import TEACHER, answered_jobs, jobs, make_job, make_result


def assert_equal(ours: object, theirs: object) -> None:
    """Field by field, arrays by value (NaN equals NaN)."""
    assert type(ours) is type(theirs)
    for field in dataclasses.fields(ours):  # type: ignore[arg-type]
        left, right = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(left, Scores):
            assert_equal(left, right)
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        elif field.name in ("contexts", "responses"):
            assert list(map(list, left)) == list(map(list, right))
        else:
            assert left == right


@given(jobs())
def test_any_job_survives_the_round_trip(job: ScoringJob) -> None:
    wire = job_to_message(job).SerializeToString()
    assert_equal(job, job_from_message(scoring_pb2.ScoreRequest.FromString(wire)))


@given(answered_jobs())
def test_any_result_survives_the_round_trip(answered: tuple[ScoringJob, ScoringResult]) -> None:
    job, result = answered
    wire = result_to_message(result).SerializeToString()
    assert_equal(result, result_from_message(scoring_pb2.ScoreResponse.FromString(wire), job))


def test_a_teacher_survives_the_round_trip() -> None:
    assert teacher_from_message(teacher_to_message(TEACHER)) == TEACHER
    only_sampled = dataclasses.replace(TEACHER, outputs=("sampled",))
    assert teacher_from_message(teacher_to_message(only_sampled)) == only_sampled
    assert {field.name for field in dataclasses.fields(TeacherInfo)} == {
        field.name for field in scoring_pb2.GetTeacherResponse.DESCRIPTOR.fields
    }


@given(job=jobs(), data=st.data())
def test_a_damaged_job_is_refused_or_a_job(job: ScoringJob, data: st.DataObject) -> None:
    message = damaged(data.draw, job_to_message(job))
    if message is None:
        return
    with contextlib.suppress(InvalidJob):
        decoded = job_from_message(message)
        assert_equal(decoded, job_from_message(job_to_message(decoded)))
        assert decoded.tokens_computed <= decoded.tokens_naive


@given(answered=answered_jobs(), data=st.data())
def test_a_damaged_result_is_refused_or_answers_the_job(
    answered: tuple[ScoringJob, ScoringResult], data: st.DataObject
) -> None:
    job, result = answered
    message = damaged(data.draw, result_to_message(result))
    if message is None:
        return
    with contextlib.suppress(InvalidJob, EngineFailure):
        decoded = result_from_message(message, job)
        for pair, length in enumerate(job.pair_lengths):
            scores = decoded.pair(pair)
            for array in (scores.sampled, scores.given, scores.entropy, scores.top_k_log_probs):
                if array is not None:
                    assert len(array) == length
                    counted = array if scores.valid is None else array[scores.valid]
                    assert np.isfinite(counted).all()


def test_a_teacher_that_names_no_outputs_gives_none() -> None:
    message = teacher_to_message(TEACHER)
    message.ClearField("outputs")
    assert teacher_from_message(message).outputs == ()


def _message(**changes: Any) -> scoring_pb2.ScoreRequest:
    return job_to_message(make_job(**changes))


EMPTY = np.zeros(0, dtype=np.int32)


@pytest.mark.parametrize(
    ("message", "reason", "text"),
    [
        (_message(job_id=""), "NO_ID", "id"),
        (_message(contexts=()), "NO_CONTEXT", "at least one context"),
        (_message(responses=()), "NO_RESPONSE", "at least one response"),
        (_message(contexts=(np.ones(1, np.int32), EMPTY)), "EMPTY_CONTEXT", "context 1 is empty"),
        (_message(responses=(np.ones(1, np.int32), EMPTY)), "EMPTY_RESPONSE", "response 1"),
        (_message(pairs=pairs_array([])), "NO_PAIR", "at least one pair"),
        (_message(pairs=pairs_array([(0, 0), (2, 0)])), "PAIR_OUT_OF_RANGE", r"pair 1 is \[2, 0\]"),
        (_message(pairs=pairs_array([(0, -1)])), "PAIR_OUT_OF_RANGE", r"pair 0 is \[0, -1\]"),
        (_message(pairs=np.zeros((2, 3), np.int32)), "MALFORMED_TENSOR", r"not int32 \[2, 3\]"),
        (_message(pairs=np.zeros((2, 2), np.int64)), "MALFORMED_TENSOR", "not int64"),
        (_message(outputs=Outputs(sampled=False)), "NO_OUTPUT", "no output"),
        (_message(outputs=Outputs(given=True)), "GIVEN_WITHOUT_IDS", "both or neither"),
        (_message(token_ids=np.zeros((3, 1), np.int32)), "GIVEN_WITHOUT_IDS", "both or neither"),
        (
            _message(outputs=Outputs(given=True), token_ids=np.zeros((2, 1), np.int32)),
            "MALFORMED_TENSOR",
            r"token_ids must be int32 \[3, n\]",
        ),
    ],
)
def test_a_job_that_cannot_be_is_refused_by_name(
    message: scoring_pb2.ScoreRequest, reason: str, text: str
) -> None:
    with pytest.raises(InvalidJob, match=text) as refusal:
        job_from_message(message)
    assert refusal.value.reason == reason


def test_a_result_of_another_job_is_refused() -> None:
    message = result_to_message(make_result(make_job("theirs")))
    with pytest.raises(EngineFailure, match="asked for job 'ours', but 'theirs' was answered"):
        result_from_message(message, make_job("ours"))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_never_handed_on(number: float) -> None:
    job = make_job()
    message = result_to_message(make_result(job))
    sampled = np.full(5, -1.0, dtype=np.float32)
    sampled[3] = number
    message.scores.sampled.CopyFrom(encode_tensor(sampled))
    with pytest.raises(EngineFailure, match="sampled, row 3") as refusal:
        result_from_message(message, job)
    assert refusal.value.reason == "NOT_FINITE"


def test_an_output_that_was_asked_for_must_be_there() -> None:
    job = make_job(outputs=Outputs(sampled=True, entropy=True))
    with pytest.raises((EngineFailure, InvalidJob), match=r"scores\.entropy"):
        result_from_message(result_to_message(make_result(job)), job)


def test_a_top_k_of_another_size_is_refused() -> None:
    job = make_job(outputs=Outputs(top_k=2))
    entries = np.zeros((5, 3), dtype=np.int32), np.full((5, 3), -1, dtype=np.float32)
    message = result_to_message(make_result(job))
    message.scores.top_k.CopyFrom(encode_top_k(*entries))
    with pytest.raises(EngineFailure, match=r"top_k_ids is int32 \[5, 3\], .* int32 \[5, 2\]"):
        result_from_message(message, job)


def test_missing_numbers_need_a_reason() -> None:
    job = make_job()
    result = make_result(job)
    valid = np.array([True, True, False, False, True])
    sampled = np.where(valid, np.float32(-1), np.float32(np.nan))
    named = dataclasses.replace(
        result, scores=Scores(sampled=sampled, valid=valid, missing=(Missing(1, "TOO_LONG"),))
    )
    decoded = result_from_message(result_to_message(named), job)
    assert np.isnan(decoded.pair(1).sampled).all()  # type: ignore[arg-type]
    unnamed = dataclasses.replace(named, scores=dataclasses.replace(named.scores, missing=()))
    with pytest.raises(EngineFailure, match="pair 1"):
        result_from_message(result_to_message(unnamed), job)


def test_a_missing_number_is_not_a_number() -> None:
    job = make_job()
    valid = np.array([True, True, True, True, False])
    zero = dataclasses.replace(
        make_result(job),
        scores=Scores(
            sampled=np.zeros(5, np.float32), valid=valid, missing=(Missing(2, "TOO_LONG"),)
        ),
    )
    with pytest.raises(EngineFailure, match="sampled, row 4"):
        result_from_message(result_to_message(zero), job)
