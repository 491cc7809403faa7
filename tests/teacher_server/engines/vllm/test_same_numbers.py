"""The engine's scores are those of one plain forward pass a pair, however they were computed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from counterhint import Outputs, ScoringJob, pairs_array
from counterhint.errors import InvalidJob
from counterhint.tensors import TokenIds
from tests.teacher_server.engines.vllm.setups import (
    BLOCK,
    CAPPED,
    GPU_SETUPS,
    PARALLEL,
    SETUPS,
    SMOLLM2,
    UNCAPPED,
)
from tests.teacher_server.engines.vllm.vllm_teacher import Asked, VllmTeacher
from tests.teacher_server.jobs import random_job

pytestmark = pytest.mark.vllm

ON_GPUS = [pytest.param(name, marks=pytest.mark.gpu(it.gpus)) for name, it in GPU_SETUPS.items()]
CROWDED_SETUPS = [
    *(name for name in SETUPS if "crowded" in name),
    *(setup for setup in ON_GPUS if "crowded" in str(setup.values)),
]


def job_of(teacher: VllmTeacher, contexts, responses, pairs, *, top_k=4, **options) -> ScoringJob:
    """A random job that asks for all that the engine can give."""
    outputs = teacher.outputs(top_k)
    return random_job(
        contexts,
        responses,
        pairs,
        outputs=outputs,
        given=3 if outputs.given else 0,
        vocab_size=teacher.info.vocab_size,
        **options,
    )


def mixed(teacher: VllmTeacher) -> ScoringJob:
    """Contexts around the borders of blocks, responses from one token on, pairs in no order."""
    contexts, responses = (1, 9, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK), (1, 7, 50, 97)
    pairs = [(c, r) for c in range(len(contexts)) for r in range(len(responses))]
    order = np.random.default_rng(1).permutation(len(pairs)).tolist()
    again = order[:3]
    return job_of(teacher, contexts, responses, [pairs[index] for index in order + again])


def siblings(teacher: VllmTeacher) -> ScoringJob:
    """Contexts and responses that open alike, a response twice, and a response inside a context."""
    job = job_of(teacher, (2 * BLOCK, 2 * BLOCK, 100), (45, 45, 45), [], seed=2)
    contexts, responses = [list(c) for c in job.contexts], [list(r) for r in job.responses]
    contexts[1][: BLOCK + 5] = contexts[0][: BLOCK + 5]
    contexts[2] = contexts[0] + responses[0][:36]
    responses[1][:40] = responses[0][:40]
    responses[2] = responses[0]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 2), (0, 0)]
    return replace(
        job,
        contexts=tuple(np.array(ids, dtype=np.int32) for ids in contexts),
        responses=tuple(np.array(ids, dtype=np.int32) for ids in responses),
        pairs=pairs_array(pairs),
    )


def longest(teacher: VllmTeacher) -> ScoringJob:
    """Sequences as long as the model takes them."""
    most = teacher.info.max_model_len
    return job_of(
        teacher, (1, most - 1, most // 2), (1, most - 1, most - most // 2), [(0, 1), (1, 0), (2, 2)]
    )


def extreme_ids(teacher: VllmTeacher) -> ScoringJob:
    """The first and the last id of the vocabulary, given ids twice, and the largest top-k."""
    job = job_of(
        teacher, (BLOCK, 5), (20, 3), [(0, 0), (1, 0), (1, 1)], top_k=teacher.info.max_top_k
    )
    last = teacher.info.vocab_size - 1
    ends = np.array([last, 0, last, last, 0], dtype=np.int32)
    given = job.token_ids
    if given is not None:
        given = np.column_stack([np.full(len(given), last), given[:, 0], given[:, 0]])
        given = given.astype(np.int32)
    return replace(
        job,
        contexts=(job.contexts[0], ends),
        responses=(job.responses[0], ends[:3]),
        token_ids=given,
    )


def borders(teacher: VllmTeacher) -> ScoringJob:
    """Short responses behind contexts around the borders of blocks. What a real model says after
    one token alone, its attention sink, differs by 1e-3 with the order of summation."""
    contexts = (9, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK)
    return job_of(teacher, contexts, (1, 7), [(c, r) for c in range(5) for r in range(2)], seed=3)


def hinted(teacher: VllmTeacher) -> ScoringJob:
    """A problem under four hints, and solutions that open alike, in words."""
    tokenizer = AutoTokenizer.from_pretrained(teacher.engine._options.model)

    def ids(*texts: str) -> tuple[TokenIds, ...]:
        return tuple(np.array(tokenizer(text).input_ids, dtype=np.int32) for text in texts)

    problem = "Anna has 7 apples and buys 5 more, then gives 4 to Ben. How many are left? " * 2
    contexts = ids(*(f"{problem}A solution for reference: {hint}. Answer: " for hint in "8937"))
    return ScoringJob(
        "job",
        "run",
        (*contexts, contexts[0][:BLOCK]),
        ids("7 and 5 make 12, less 4 is 8.", "7 and 5 make 12, less 4 is 9.", "8"),
        pairs_array([(0, 0), (1, 1), (0, 1), (2, 2), (3, 0), (4, 0), (4, 1), (0, 0)]),
        tokenizer_fingerprint="",
        outputs=Outputs(top_k=16, entropy=True),
    )


Case = Callable[[VllmTeacher], ScoringJob]
CASES: list[Case] = [mixed, siblings, longest, extreme_ids]


def check_twice(teacher: VllmTeacher, job: ScoringJob) -> None:
    for _ in range(2):  # the second time most of it is in the cache
        (scored,) = teacher.score(job)
        teacher.check(job, scored)


@pytest.mark.parametrize("teacher", [*SETUPS, *PARALLEL, *ON_GPUS], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_scores_are_those_of_a_plain_pass(teacher: VllmTeacher, case: Case):
    check_twice(teacher, case(teacher))


@pytest.mark.parametrize("teacher", ["smollm2, whole prompts"], indirect=True)
@pytest.mark.parametrize("case", [borders, siblings, hinted], ids=lambda case: case.__name__)
def test_scores_of_a_real_model(teacher: VllmTeacher, case: Case):
    check_twice(teacher, case(teacher))


@pytest.mark.parametrize("teacher", [*SETUPS, *SMOLLM2, *PARALLEL, *ON_GPUS], indirect=True)
def test_jobs_of_several_runs_do_not_mix(teacher: VllmTeacher):
    """Many jobs at once, which ask for different things; some share their contexts."""
    most = teacher.info.max_top_k
    jobs = []
    for seed in range(9):
        wanted = teacher.outputs((0, 1, most)[seed % 3])
        if seed % 2:
            wanted = replace(wanted, given=False)
        if seed % 4 == 1:
            wanted = replace(wanted, sampled=bool(wanted.top_k == 0), entropy=False)
        job = random_job(
            (BLOCK + 8, BLOCK),
            (12, 5, 1),
            [(0, 0), (1, 0), (0, 1), (1, 2)],
            seed=seed // 2,
            given=1 + seed if wanted.given else 0,
            vocab_size=teacher.info.vocab_size,
            outputs=wanted,
        )
        jobs.append(job)
    for job, scored in zip(jobs, teacher.score(*jobs), strict=True):
        teacher.check(job, scored)


@pytest.mark.parametrize("teacher", ["llama", "public"], indirect=True)
def test_one_token_more_than_the_longest_is_refused(teacher: VllmTeacher):
    most = teacher.info.max_model_len
    assert most == 255  # of 256; vLLM needs a place for a token that it samples
    with pytest.raises(InvalidJob, match="at most 255"):
        teacher.score(random_job((most,), (1,), [(0, 0)]))


@pytest.mark.parametrize("teacher", CAPPED, indirect=True)
def test_capped_hits_need_no_second_requests(teacher: VllmTeacher):
    before = teacher.engine.second_requests
    job = siblings(teacher)
    first, again = teacher.score(job)[0], teacher.score(job)[0]
    assert teacher.engine.second_requests == before
    assert first.tokens_computed < job.tokens_naive
    assert again.tokens_computed < job.tokens_naive


@pytest.mark.parametrize("teacher", UNCAPPED, indirect=True)
def test_swallowed_rows_are_asked_for_again_and_counted(teacher: VllmTeacher):
    """The context fills a block; the second time, the hit covers the response's first rows."""
    job = job_of(teacher, (2 * BLOCK,), (BLOCK + 3,), [(0, 0)], seed=7)
    teacher.score(job)
    before = teacher.engine.second_requests
    (scored,) = teacher.score(job)
    assert teacher.engine.second_requests == before + 1
    # First the rest behind the hit of 96 tokens, then all 99 of them.
    assert scored.tokens_computed == 3 + len(job.contexts[0]) + len(job.responses[0])
    teacher.check(job, scored)


@pytest.mark.parametrize("teacher", CROWDED_SETUPS, indirect=True)
def test_requests_that_lose_their_place_in_the_cache_halfway(teacher: VllmTeacher):
    """When they go on, they may find more of themselves in the cache than they had computed."""
    preempted: list[Asked] = []
    for seed in range(6):
        job = job_of(
            teacher, (40, 40), (180, 180), [(0, 0), (0, 0), (1, 0), (0, 1), (0, 0)], seed=seed
        )
        preempted += preemptions(teacher, job)
    assert any(request.cached for request in preempted)


@pytest.mark.parametrize("teacher", ["smollm2, crowded"], indirect=True)
def test_requests_of_a_real_model_that_lose_their_place(teacher: VllmTeacher):
    job = job_of(teacher, (40,), (100, 100, 100, 100), [(0, r) for r in range(4)], top_k=1)
    assert preemptions(teacher, job)


def preemptions(teacher: VllmTeacher, job: ScoringJob) -> list[Asked]:
    """Has a job scored; the requests for it that lost their place in the cache."""
    before = len(teacher.asked)
    (scored,) = teacher.score(job)
    asked = teacher.asked[before:]
    lost = [request for request in asked if request.preemptions]
    if teacher.engine.path_name != "response-rows":  # nothing in its replies would tell
        again = {request.tokens for request in asked if not request.cached}
        assert again >= {request.tokens for request in lost}
    teacher.check(job, scored)
    return lost
