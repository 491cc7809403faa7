import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.channel import open_channel
from counterhint.client import AsyncScoringClient
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    InputError,
    InvalidJob,
    JobCancelled,
    JobConflict,
    JobDeadLettered,
    JobNotFound,
    Overloaded,
    TokenizerMismatch,
    Unavailable,
    UnknownFailure,
    WeightsUnavailable,
    error_from_rpc,
    failure_from_message,
    failure_to_message,
)
from counterhint.jobs import ScoringJob, ScoringResult
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from tests.counterhint.examples import make_job
from tests.counterhint.scripted_server import ScriptedService, serving

CLASSES = [
    DeadlinePassed,
    EngineFailure,
    InvalidJob,
    JobCancelled,
    JobConflict,
    JobDeadLettered,
    JobNotFound,
    Overloaded,
    Unavailable,
    WeightsUnavailable,
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


def facts(error: CounterhintError) -> tuple[object, ...]:
    return type(error), error.message, error.reason, error.details, error.retry_after


def an_error(kind: type[CounterhintError]) -> CounterhintError:
    return kind(
        f"what went wrong: größer als 3, {kind.__name__}",
        reason="A_REASON",
        details={"number": 7, "text": "ä"},
        retry_after=0.25,
    )


@given(
    kind=st.sampled_from(CLASSES),
    message=texts,
    reason=texts,
    details=st.dictionaries(texts, texts | st.integers()),
    retry_after=st.floats(0, 1e6),
)
def test_any_error_survives_as_a_failure_message(
    kind: type[CounterhintError],
    message: str,
    reason: str,
    details: dict[str, object],
    retry_after: float,
) -> None:
    error = kind(message, reason=reason, details=details, retry_after=retry_after)
    wire = failure_to_message(error).SerializeToString()
    received = failure_from_message(scoring_pb2.Failure.FromString(wire))
    # A tokenizer mismatch is recognised by its reason, and no other reason means a class.
    expected = TokenizerMismatch if reason == "TOKENIZER_MISMATCH" else kind
    assert facts(received) == (expected, *facts(error)[1:])


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_survives_a_real_call(kind: type[CounterhintError], tmp_path: Path) -> None:
    sent = an_error(kind)
    assert facts(asyncio.run(_received(sent, tmp_path / "s"))) == facts(sent)


def test_a_tokenizer_mismatch_keeps_its_class_and_both_fingerprints(tmp_path: Path) -> None:
    sent = TokenizerMismatch("ours", "theirs")
    received = asyncio.run(_received(sent, tmp_path / "s"))
    assert facts(received) == facts(sent)
    assert received.details == {"requested": "ours", "teacher": "theirs"}
    assert facts(failure_from_message(failure_to_message(sent))) == facts(sent)


def test_a_very_long_message_does_not_hide_the_error(tmp_path: Path) -> None:
    sent = EngineFailure(
        "ä" * 50_000, reason="ENGINE_ERROR", details={"trace": "x" * 50_000, "row": 3}
    )
    received = asyncio.run(_received(sent, tmp_path / "s"))
    assert isinstance(received, EngineFailure)
    assert received.reason == "ENGINE_ERROR"
    assert received.details["row"] == "3"
    assert received.message.startswith("ää")
    assert "more characters" in received.message


def test_odd_characters_do_not_hide_the_error(tmp_path: Path) -> None:
    """gRPC's own copy of a message cannot hold NUL."""
    odd = "".join(map(chr, range(0x180))) + "\u2028\ufeff\uffff😀%00"
    received = asyncio.run(_received(InvalidJob(odd, reason="A_REASON"), tmp_path / "s"))
    assert facts(received)[:3] == (InvalidJob, odd.replace("\0", "\\0"), "A_REASON")


async def _received(error: CounterhintError, socket: Path) -> CounterhintError:
    """What the client gets when a server answers with an error."""

    async def answer(job: ScoringJob) -> ScoringResult:
        raise error

    async with (
        serving(ScriptedService(answer), socket) as address,
        open_channel(address) as channel,
    ):
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Score(job_to_message(make_job()))
        return error_from_rpc(caught.value)


def test_a_status_that_is_not_ours_becomes_the_error_of_its_code(tmp_path: Path) -> None:
    async def call() -> CounterhintError:
        async with open_channel(f"unix://{tmp_path / 'nobody'}") as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Score(job_to_message(make_job()))
            return error_from_rpc(caught.value)

    error = asyncio.run(call())
    assert isinstance(error, Unavailable)
    assert error.reason == "UNAVAILABLE"


class CutsOffFirst(ScriptedService):
    """Ends its first call as gRPC does that of a server which shuts down."""

    async def Score(  # noqa: N802
        self, request: scoring_pb2.ScoreRequest, context: Any
    ) -> scoring_pb2.ScoreResponse:
        if not self.seen:
            self.seen.append(request.id)
            await context.abort(grpc.StatusCode.CANCELLED, "")
        return await super().Score(request, context)


def test_a_call_that_a_server_cuts_off_is_tried_again_and_no_cancelled_job(tmp_path: Path) -> None:
    service = CutsOffFirst()

    async def call() -> list[CounterhintError]:
        failures: list[CounterhintError] = []
        async with (
            serving(service, tmp_path / "s") as address,
            AsyncScoringClient(address, timeout=240.0, on_retry=failures.append) as client,
        ):
            await client.score(make_job())
        return failures

    (failure,) = asyncio.run(call())
    assert isinstance(failure, Unavailable)
    assert failure.reason == "CALL_CUT_OFF"


def test_an_unknown_code_or_a_foreign_error_is_an_unknown_failure() -> None:
    failure = scoring_pb2.Failure(code=4711, reason="NEW", message="from the future")
    error = failure_from_message(failure)
    assert isinstance(error, UnknownFailure)
    assert (error.reason, error.message) == ("NEW", "from the future")
    assert isinstance(error_from_rpc(grpc.RpcError("odd")), UnknownFailure)


def test_an_input_error_is_no_error_of_the_contract() -> None:
    assert not issubclass(InputError, CounterhintError)
