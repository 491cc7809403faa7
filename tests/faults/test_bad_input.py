"""Jobs that can never be scored, sent to the intake and to the teacher: refused before any work."""

from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from counterhint.channel import MAX_MESSAGE_BYTES
from counterhint.errors import CounterhintError
from counterhint.messages import job_to_message
from counterhint.tensors import encode_sequences, encode_tensor
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from tests.faults.site import PATIENCE, Site, Teacher, one_call
from tests.services.scripted_teacher import make_job

Request = scoring_pb2.ScoreRequest


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> Iterator[Site]:
    """One site for all: what is refused leaves no trace in it."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.redis.start()
    site.services(teacher=teacher.address)
    yield site
    assert site.ask(lambda queue: queue.stats()) == []
    site.end()


def set_context(request: Request, *ids: int) -> None:
    request.contexts.CopyFrom(encode_sequences([np.array(ids, dtype=np.int32)]))


def set_response(request: Request, *ids: int) -> None:
    request.responses.CopyFrom(encode_sequences([np.array(ids, dtype=np.int32)]))


def set_pair(request: Request, context: int, response: int) -> None:
    pairs = np.array([[0, 0], [context, response]], dtype=np.int32)
    request.pairs.CopyFrom(encode_tensor(pairs))


def set_top_k(request: Request, k: int) -> None:
    request.outputs.top_k = k


BAD: dict[str, tuple[Callable[[Request], None], str, str]] = {
    "token id < 0": (
        lambda request: set_context(request, 5, 7, -1),
        "TOKEN_ID_OUT_OF_RANGE",
        "context 0: token id -1 at position 2",
    ),
    "token id = vocabulary": (
        lambda request: set_response(request, 5, 64),
        "TOKEN_ID_OUT_OF_RANGE",
        "response 0: token id 64 at position 1 is outside the vocabulary of 64",
    ),
    "k too large": (
        lambda request: set_top_k(request, 65),
        "TOP_K_TOO_LARGE",
        "top_k is 65, but the teacher gives at most 64",
    ),
    "no response": (
        lambda request: request.ClearField("responses"),
        "NO_RESPONSE",
        "at least one response",
    ),
    "empty response": (set_response, "EMPTY_RESPONSE", "response 0 is empty"),
    "no context": (
        lambda request: request.ClearField("contexts"),
        "NO_CONTEXT",
        "at least one context",
    ),
    "empty context": (set_context, "EMPTY_CONTEXT", "context 0 is empty"),
    "pair beyond the responses": (
        lambda request: set_pair(request, 0, 1),
        "PAIR_OUT_OF_RANGE",
        "pair 1 is [0, 1], but there are 1 contexts and 1 responses",
    ),
    "pair < 0": (
        lambda request: set_pair(request, -1, 0),
        "PAIR_OUT_OF_RANGE",
        "pair 1 is [-1, 0]",
    ),
}


def refusals(site: Site, teacher: Teacher, request: Request) -> list[CounterhintError]:
    """What the intake and the teacher say."""
    answers = [one_call(address, request) for address in (site.intake, teacher.address)]
    errors = [answer for answer in answers if isinstance(answer, CounterhintError)]
    assert len(errors) == 2
    return errors


@pytest.mark.parametrize("case", BAD)
def test_what_is_malformed_is_an_invalid_argument_that_names_the_index(
    case: str, site: Site, teacher: Teacher, fingerprint: str
) -> None:
    damage, reason, text = BAD[case]
    request = job_to_message(make_job("bad", fingerprint=fingerprint))
    damage(request)
    for error in refusals(site, teacher, request):
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert text in error.message


def test_a_pair_too_long_is_refused_with_both_numbers_before_the_queue(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    job = make_job("long", tokens=300, fingerprint=fingerprint)
    for error in refusals(site, teacher, job_to_message(job)):
        assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "PAIR_TOO_LONG")
        assert "is 302 tokens long, but the teacher takes at most 256" in error.message


def test_another_tokenizer_is_a_failed_precondition_with_both_fingerprints(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    job = make_job("other", fingerprint="0" * 64)
    for error in refusals(site, teacher, job_to_message(job)):
        assert error.code.name == "FAILED_PRECONDITION"
        assert "0" * 64 in error.message
        assert fingerprint in error.message


def test_a_message_too_large_is_refused_with_the_limit(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    tokens = MAX_MESSAGE_BYTES // 4 + 1
    request = job_to_message(make_job("large", tokens=tokens, fingerprint=fingerprint))
    for address in (site.intake, teacher.address):
        # A client of ours would not send it.
        with (
            grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel,
            pytest.raises(grpc.RpcError) as refusal,
        ):
            scoring_pb2_grpc.ScoringServiceStub(channel).Score(request, timeout=PATIENCE)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(MAX_MESSAGE_BYTES) in refusal.value.details()
