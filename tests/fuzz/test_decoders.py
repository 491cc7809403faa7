"""Whatever bytes or fields come in, decoders give a value or a typed error; seeded, in process."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message

from counterhint.errors import (
    CounterhintError,
    InputError,
    InvalidJob,
    error_to_status,
    failure_from_message,
    failure_to_message,
)
from counterhint.jobs import Cost, Outputs, ScoringResult
from counterhint.message_bounds import timeout_of
from counterhint.messages import (
    cost_from_message,
    job_from_message,
    job_to_message,
    result_from_message,
    result_to_message,
    teacher_from_message,
    teacher_to_message,
)
from counterhint.tensors import decode_sequences, decode_tensor
from counterhint.tokens import Grant, TokenTable, new_token, now, read_table, write_table
from counterhint.top_k import decode_top_k
from counterhint.v1 import scoring_pb2
from counterhint.validation import validate_job
from services.assembly import Assembly
from services.queue.records import Claim, JobState, Outcome
from services.submission import response_of
from tests.counterhint.examples import TEACHER, make_job, make_result
from tests.fuzz.documented_errors import documented
from tests.fuzz.mutations import mutate_bytes, mutate_fields

INPUTS = 600
"""Of each decoder."""

JOB = make_job(
    outputs=Outputs(sampled=True, top_k=2, given=True, entropy=True),
    token_ids=make_job().pairs[:, :1].copy(),
)
REQUEST = job_to_message(JOB)


def _response() -> scoring_pb2.ScoreResponse:
    job = make_job()
    result: ScoringResult = make_result(job)
    return result_to_message(dataclasses.replace(result, cost=Cost(9, 8, 0.5, 0.5, 1, 1)))


RESPONSE = _response()
FAILURE = failure_to_message(
    InvalidJob("no", reason="NO_ID", details={"id": "x"}, retry_after=1.0),
)


def validated(message: scoring_pb2.ScoreRequest) -> None:
    """All that a server asks before a job goes on."""
    job = job_from_message(message)
    validate_job(job, TEACHER, may_be_split=True)
    assert 0 < job.tokens_computed <= job.tokens_naive


def status_of(message: scoring_pb2.Failure) -> None:
    """A failure on its way through an intake."""
    status = error_to_status(failure_from_message(message))
    assert sum(len(value) for _, value in status.trailing_metadata) < 8192


def refusal(decode: Callable[[Any], object], value: object) -> CounterhintError | None:
    """The typed error with which a value is refused; any other is the test's failure."""
    try:
        decode(value)
    except CounterhintError as error:
        return error
    return None


DECODERS: dict[str, tuple[Message, Callable[[Any], object]]] = {
    "job": (REQUEST, validated),
    "timeout": (scoring_pb2.ScoreStreamRequest(job=REQUEST, timeout_seconds=5.0), timeout_of),
    "result": (RESPONSE, lambda message: result_from_message(message, make_job())),
    "cost": (RESPONSE.cost, cost_from_message),
    "failure": (FAILURE, status_of),
    "teacher": (teacher_to_message(TEACHER), teacher_from_message),
    "tensor": (REQUEST.pairs, decode_tensor),
    "sequences": (REQUEST.contexts, decode_sequences),
    "top-k": (
        scoring_pb2.TopK(
            words=scoring_pb2.Tensor(element_type=9, shape=[2, 2], data=bytes(16)),
            high_ids=scoring_pb2.Tensor(element_type=6, shape=[2, 2], data=bytes(4)),
        ),
        decode_top_k,
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_damaged_message_is_a_typed_error_or_a_value(name: str) -> None:
    whole, decode = DECODERS[name]
    for number in range(INPUTS):
        random = Random(f"{name}/{number}")
        message = type(whole)()
        message.CopyFrom(whole)
        mutate_fields(random, message, random.randrange(1, 4))
        if random.random() < 0.4:
            try:
                message = type(whole).FromString(mutate_bytes(random, message.SerializeToString()))
            except DecodeError:
                continue
        error = refusal(decode, message)
        assert error is None or (error.code.name, error.reason) in documented(), f"input {number}"


def test_damaged_payloads_in_the_queue_are_typed_errors() -> None:
    for number in range(INPUTS):
        random = Random(f"payload/{number}")
        payload = mutate_bytes(random, REQUEST.SerializeToString())
        claim = Claim("job", "run", 3, "worker", 1, 0, payload, 0.0, 60.0)
        error = refusal(lambda claim: Assembly(claim, max_part_tokens=100), claim)
        assert error is None or error.reason == "BAD_PAYLOAD", f"input {number}"


@pytest.mark.parametrize(
    ("state", "whole"), [(JobState.DONE, RESPONSE), (JobState.FAILED, FAILURE)]
)
def test_damaged_outcomes_in_the_queue_are_typed_errors(state: JobState, whole: Message) -> None:
    for number in range(INPUTS):
        random = Random(f"{state}/{number}")
        body = mutate_bytes(random, whole.SerializeToString())
        error = refusal(response_of, Outcome("job", state, body, 0.5))
        if state is JobState.DONE:
            assert error is None or error.reason == "OUTCOME_UNREADABLE", f"input {number}"
        else:
            assert error is not None, f"input {number}"


def test_damaged_token_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    write_table(path, TokenTable(runs={"maths": Grant(tokens={new_token()[1]: now()})}))
    whole = path.read_bytes()
    accepted = 0
    for number in range(INPUTS):
        path.write_bytes(mutate_bytes(Random(f"tokens/{number}"), whole))
        with contextlib.suppress(InputError):
            read_table(path)
            accepted += 1
    assert accepted < INPUTS / 2
