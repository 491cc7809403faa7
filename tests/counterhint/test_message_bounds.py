import math

import pytest

from counterhint.errors import InvalidJob
from counterhint.message_bounds import (
    LONGEST_ID,
    LONGEST_TEXT,
    LONGEST_TIMEOUT,
    id_to_answer,
    timeout_of,
)
from counterhint.messages import job_from_message, job_to_message
from counterhint.v1 import scoring_pb2
from tests.counterhint.examples import make_job


@pytest.mark.parametrize(
    ("field", "bound"),
    [
        ("id", LONGEST_ID),
        ("run_id", LONGEST_ID),
        ("tokenizer_fingerprint", LONGEST_TEXT),
        ("weights.uri", LONGEST_TEXT),
        ("weights.sha256", LONGEST_TEXT),
    ],
)
def test_texts_are_bounded_in_bytes(field: str, bound: int) -> None:
    message = job_to_message(make_job())
    holder = message.weights if field.startswith("weights.") else message
    name = field.rpartition(".")[2]
    setattr(holder, name, "é" * (bound // 2))
    job_from_message(message)
    setattr(holder, name, "é" * (bound // 2) + "x")
    with pytest.raises(InvalidJob, match=f"{field} has {bound + 1} bytes") as refusal:
        job_from_message(message)
    assert refusal.value.reason == "TEXT_TOO_LONG"


@pytest.mark.parametrize(
    "seconds", [-1.0, -1e-300, math.nan, math.inf, -math.inf, 2 * LONGEST_TIMEOUT]
)
def test_timeouts_that_no_clock_can_count_are_refused(seconds: float) -> None:
    with pytest.raises(InvalidJob) as refusal:
        timeout_of(scoring_pb2.ScoreStreamRequest(timeout_seconds=seconds))
    assert refusal.value.reason == "TIMEOUT_OUT_OF_RANGE"


def test_no_timeout_is_no_bound() -> None:
    assert timeout_of(scoring_pb2.ScoreStreamRequest()) is None
    assert timeout_of(scoring_pb2.ScoreStreamRequest(timeout_seconds=0.5)) == 0.5


def test_the_id_of_an_answer_is_the_jobs_as_far_as_it_may_go() -> None:
    message = scoring_pb2.ScoreStreamRequest(job=scoring_pb2.ScoreRequest(id="i" * 9_000_000))
    assert id_to_answer(message) == "i" * LONGEST_ID
