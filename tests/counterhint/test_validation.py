from dataclasses import replace

import numpy as np
import pytest

from counterhint.errors import CounterhintError, InvalidJob, Overloaded, TokenizerMismatch
from counterhint.jobs import Outputs, ScoringJob, pairs_array
from counterhint.validation import validate_job
from tests.counterhint.examples import TEACHER, make_job


def ids(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, dtype=np.int32)


def many(count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.ones(count, dtype=np.int32)


ONE_PAIR = pairs_array([(0, 0)])


@pytest.mark.parametrize(
    "job",
    [
        make_job(),
        make_job(outputs=Outputs(top_k=TEACHER.max_top_k)),
        make_job(contexts=(ids(0, TEACHER.vocab_size - 1), ids(1))),
        make_job(contexts=(many(60),), responses=(many(4),), pairs=ONE_PAIR),
        # Exactly as large as the teacher takes: 3 contexts of 40, 4 responses of 20 tokens.
        make_job(
            contexts=(many(40),) * 3,
            responses=(many(20),) * 2,
            pairs=pairs_array([(0, 0), (1, 0), (2, 0), (2, 1)]),
        ),
    ],
)
def test_what_the_teacher_can_score_passes(job: ScoringJob) -> None:
    validate_job(job, TEACHER)


@pytest.mark.parametrize(
    ("job", "kind", "reason", "text"),
    [
        (
            make_job(tokenizer_fingerprint="other"),
            TokenizerMismatch,
            "TOKENIZER_MISMATCH",
            "tokenizer other",
        ),
        (
            make_job(outputs=Outputs(top_k=9)),
            InvalidJob,
            "TOP_K_TOO_LARGE",
            "top_k is 9.*at most 8",
        ),
        (
            make_job(contexts=(ids(1), ids(2, 1000))),
            InvalidJob,
            "TOKEN_ID_OUT_OF_RANGE",
            "context 1: token id 1000 at position 1.*1000",
        ),
        (
            make_job(responses=(ids(-1), ids(2))),
            InvalidJob,
            "TOKEN_ID_OUT_OF_RANGE",
            "response 0: token id -1 at position 0",
        ),
        (
            make_job(outputs=Outputs(given=True), token_ids=np.full((3, 2), 5000, np.int32)),
            InvalidJob,
            "TOKEN_ID_OUT_OF_RANGE",
            "token_ids: token id 5000",
        ),
        (
            make_job(contexts=(many(60),), responses=(many(5),), pairs=ONE_PAIR),
            InvalidJob,
            "PAIR_TOO_LONG",
            r"pair 0 \(context 0 of 60 tokens \+ response 0 of 5\) is 65 .*at most 64",
        ),
        (
            make_job(
                contexts=(many(41),) * 3,
                responses=(many(20),) * 2,
                pairs=pairs_array([(0, 0), (1, 0), (2, 0), (2, 1)]),
            ),
            Overloaded,
            "JOB_TOO_LARGE",
            "takes 203 tokens.*bound is 200",
        ),
        (  # 2 tokens a pair, 100,001 numbers each: 2 * 84 * 400,005 bytes
            make_job(
                responses=(many(1), many(2)),
                outputs=Outputs(given=True),
                token_ids=np.ones((3, 100_000), np.int32),
                pairs=pairs_array([(0, 1)] * 84),
            ),
            Overloaded,
            "REPLY_TOO_LARGE",
            r"take 67200840 bytes.*at most 66060288.*smaller top_k",
        ),
    ],
)
def test_what_it_cannot_score_is_refused_by_name(
    job: ScoringJob, kind: type[CounterhintError], reason: str, text: str
) -> None:
    with pytest.raises(kind, match=text) as refusal:
        validate_job(job, TEACHER)
    assert refusal.value.reason == reason
    assert refusal.value.retry_after == 0  # trying again never helps


@pytest.mark.parametrize(
    ("supported", "given"), [(("sampled", "top_k"), "gives sampled, top_k"), ((), "gives nothing")]
)
def test_an_output_that_the_teacher_cannot_give_is_refused_by_name(
    supported: tuple[str, ...], given: str
) -> None:
    teacher = replace(TEACHER, outputs=supported)
    job = make_job(outputs=Outputs(sampled=False, entropy=True))
    with pytest.raises(
        InvalidJob, match=rf"asks for entropy.*engine example 1\) {given}"
    ) as refusal:
        validate_job(job, teacher)
    assert refusal.value.reason == "OUTPUT_UNSUPPORTED"
    assert refusal.value.details == {
        "output": "entropy",
        "engine": "example",
        "supported": ",".join(supported),
    }


def test_only_the_outputs_that_are_asked_for_must_be_supported() -> None:
    validate_job(make_job(), replace(TEACHER, outputs=("sampled",)))


def test_an_unused_context_costs_nothing_and_a_shared_one_counts_once() -> None:
    job = make_job(
        contexts=(many(10), many(20), many(30)),
        responses=(many(2), many(3)),
        pairs=pairs_array([(0, 0), (0, 1), (1, 1)]),
    )
    assert job.tokens_computed == (10 + 20) + (2 + 3 + 3)
    assert job.tokens_naive == (10 + 2) + (10 + 3) + (20 + 3)
