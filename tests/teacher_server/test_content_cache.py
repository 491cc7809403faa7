import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from safetensors.torch import load_file, save_file

from counterhint import AsyncScoringClient, Outputs, ScoringJob, Weights, pairs_array
from counterhint.errors import EngineFailure
from counterhint.jobs import SCORE_ARRAYS, Missing, Scores, ScoringResult, TeacherInfo
from teacher_server import metrics
from teacher_server.content_cache import ContentCache, pair_keys
from teacher_server.engines.base import Engine, Scored
from teacher_server.engines.transformers import TransformersEngine
from tests.teacher_server.adapter_files import Adapter
from tests.teacher_server.jobs import (
    ALL,
    SMALL,
    given_of_pairs,
    plain_log_probs,
    random_job,
    tokens_of_pairs,
)
from tests.teacher_server.running import (
    BrokenEngine,
    HeldEngine,
    ZeroEngine,
    gauge,
    running_teacher,
    until,
)
from tests.teacher_server.test_weights import named

PLENTY = 1024**2
TEACHER = TeacherInfo("teacher", "r0", "f", 64, 256, 64, "arithmetic", "1", 500)


def job_for(engine: Engine, **fields: Any) -> ScoringJob:
    fingerprint = engine.info.tokenizer_fingerprint
    return random_job(**(SMALL | {"tokenizer_fingerprint": fingerprint} | fields))


def with_client(
    engine: Engine, use: Callable[[AsyncScoringClient], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """A teacher with a cache, over gRPC."""

    async def run() -> None:
        options.setdefault("content_cache_bytes", PLENTY)
        async with (
            running_teacher(engine, **options) as teacher,
            AsyncScoringClient(teacher.address, timeout=240) as client,
        ):
            await use(client)

    asyncio.run(run())


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the jobs that have come to the cache."""
    ids: list[str] = []
    look_up = ContentCache.look_up

    def noted(cache: ContentCache, job: ScoringJob) -> Any:
        ids.append(job.id)
        return look_up(cache, job)

    monkeypatch.setattr(ContentCache, "look_up", noted)
    return ids


def assert_same_bits(found: Scores, expected: Scores) -> None:
    for name in SCORE_ARRAYS:
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.tobytes() == other.tobytes(), name
            assert one.shape == other.shape


def cached(result: ScoringResult) -> tuple[int, int, int]:
    cost = result.cost
    return cost.pairs_cached, cost.tokens_cached, cost.tokens_computed


def test_a_repeated_job_has_the_same_numbers_bit_by_bit_without_a_forward_pass(
    engine: TransformersEngine,
):
    job = job_for(engine, outputs=ALL, given=3)
    counters = (metrics.PAIRS, metrics.PAIRS_CACHED, metrics.TOKENS_CACHED)
    before = [counter.collect()[0].samples[0].value for counter in counters]

    async def use(client: AsyncScoringClient) -> None:
        first = await client.score(job)
        assert cached(first) == (0, 0, 22)
        batches = engine.progress()
        again = await client.score(replace(job, id="again", run_id="twin"))
        assert engine.progress() == batches
        assert_same_bits(again.scores, first.scores)
        assert again.job_id == "again"
        assert again.weights_revision == engine.info.weights_revision
        assert cached(again) == (3, 22, 0)
        assert (again.cost.tokens_naive, again.cost.engine_seconds) == (26, 0)
        after = [counter.collect()[0].samples[0].value for counter in counters]
        assert np.subtract(after, before).tolist() == [6, 3, 22]
        assert gauge(metrics.CACHE_BYTES) > 3 * 1024

    with_client(engine, use)


CHANGES: dict[str, Callable[[ScoringJob], dict[str, Any]]] = {
    "top-k": lambda job: {"outputs": replace(job.outputs, top_k=5)},
    "another output": lambda job: {"outputs": replace(job.outputs, entropy=True)},
    "given ids": lambda job: {"token_ids": (job.token_ids + 1) % 64},
    "fewer given ids": lambda job: {"token_ids": job.token_ids[:, :1]},
    "context": lambda job: {"contexts": tuple((one + 1) % 64 for one in job.contexts)},
    "response": lambda job: {"responses": tuple((one + 1) % 64 for one in job.responses)},
    "border": lambda job: {
        "contexts": tuple(np.append(one, job.responses[0][0]) for one in job.contexts),
        "responses": (job.responses[0][1:], job.responses[1]),
        "token_ids": job.token_ids[1:],
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_content_or_more_outputs_are_computed_anew(engine: TransformersEngine, change):
    outputs = Outputs(sampled=True, top_k=4, given=True)
    job = job_for(engine, outputs=outputs, given=2)
    other = replace(job, **change(job))

    async def use(client: AsyncScoringClient) -> None:
        await client.score(job)
        result = await client.score(other)
        assert cached(result) == (0, 0, other.tokens_computed)
        rows = np.arange(len(tokens_of_pairs(other)))
        expected = plain_log_probs(engine.model, other)
        sampled = expected[rows, tokens_of_pairs(other)]
        np.testing.assert_allclose(result.scores.sampled, sampled, atol=1e-4)
        given = np.take_along_axis(expected, given_of_pairs(other), axis=1)
        np.testing.assert_allclose(result.scores.given, given, atol=1e-4)

    with_client(engine, use)


def test_weights_are_never_taken_for_each_other(
    engine: TransformersEngine, model_folder: Path, tmp_path: Path
):
    full = tmp_path / "full.safetensors"
    tensors = load_file(model_folder / "model.safetensors")
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, full)
    adapters = [Adapter(model_folder, tmp_path, seed).publish() for seed in (1, 2)]
    every = [None, *adapters, named(full, "r1"), named(full, "r2")]
    # A run may call its weights as the teacher calls its own.
    every.append(replace(adapters[0], revision=engine.info.weights_revision))
    jobs = [job_for(engine, id=f"job {number}", weights=one) for number, one in enumerate(every)]

    async def use(client: AsyncScoringClient) -> None:
        first = [await client.score(job) for job in jobs]
        assert [cached(result) for result in first] == [(0, 0, 22)] * len(every)
        batches = engine.progress()
        for job, result in zip(jobs, first, strict=True):
            again = await client.score(job)
            assert cached(again) == (3, 22, 0)
            assert again.weights_revision == result.weights_revision
            assert_same_bits(again.scores, result.scores)
        assert engine.progress() == batches
        numbers = {np.asarray(result.scores.sampled).tobytes() for result in first}
        assert len(numbers) == 4  # r1 and r2 are one file, and so are two of the adapters

    with_client(engine, use)


def test_a_request_for_less_is_answered_from_what_holds_more(engine: TransformersEngine):
    job = job_for(engine, outputs=replace(ALL, given=False))

    async def use(client: AsyncScoringClient) -> None:
        whole = (await client.score(job)).scores
        batches = engine.progress()
        fewer = await client.score(replace(job, outputs=Outputs(sampled=False, top_k=2)))
        plain = await client.score(replace(job, outputs=Outputs(sampled=True)))
        assert engine.progress() == batches
        assert whole.top_k_ids is not None
        assert whole.top_k_log_probs is not None
        best = Scores(
            top_k_ids=whole.top_k_ids[:, :2], top_k_log_probs=whole.top_k_log_probs[:, :2]
        )
        assert_same_bits(fewer.scores, best)
        assert_same_bits(plain.scores, Scores(sampled=whole.sampled))

    with_client(engine, use)


def test_scores_asked_for_by_turns_are_all_kept(engine: TransformersEngine):
    job = job_for(engine, outputs=Outputs(top_k=3))

    async def use(client: AsyncScoringClient) -> None:
        both = (await client.score(job)).scores
        await client.score(replace(job, outputs=Outputs(sampled=False, top_k=1, entropy=True)))
        batches = engine.progress()
        again = await client.score(replace(job, outputs=Outputs(top_k=3, entropy=True)))
        assert engine.progress() == batches
        assert_same_bits(replace(again.scores, entropy=None), both)
        assert again.scores.entropy is not None

    with_client(engine, use)


class RecordingEngine(Engine):
    """Keeps the jobs that reach another engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info = engine.info
        self.jobs: list[ScoringJob] = []

    async def score(self, job: ScoringJob) -> Scored:
        self.jobs.append(job)
        return await self._engine.score(job)

    def progress(self) -> int:
        return self._engine.progress()

    async def close(self) -> None:
        await self._engine.close()


def test_only_unknown_pairs_are_computed_and_each_content_once(engine: TransformersEngine):
    recording = RecordingEngine(engine)
    shape: dict[str, Any] = {"contexts": (7, 4, 9), "responses": (5, 1, 3)}
    every = [(context, response) for response in range(3) for context in range(3)]
    job = job_for(engine, **shape | {"pairs": every}, outputs=ALL, given=2)
    known = replace(job, id="known", pairs=pairs_array([(0, 0), (2, 1), (0, 2), (1, 0)]))
    # The last context and response are the first ones once more.
    assert job.token_ids is not None
    twice = replace(
        job,
        id="twice",
        contexts=(*job.contexts, job.contexts[1]),
        responses=(*job.responses, job.responses[2]),
        token_ids=np.concatenate([job.token_ids, job.token_ids[6:]]),
        pairs=pairs_array([*every, (3, 3), (1, 2), (3, 0)]),
    )

    async def use(client: AsyncScoringClient) -> None:
        await client.score(known)
        result = await client.score(twice)
        rest = recording.jobs[-1]
        assert (rest.id, len(rest.pairs), len(rest.contexts)) == ("twice", 5, 3)
        assert cached(result) == (7, twice.tokens_computed - rest.tokens_computed, 33)
        expected = plain_log_probs(engine.model, twice)
        rows = np.arange(len(expected))
        for found, wanted in (
            (result.scores.sampled, expected[rows, tokens_of_pairs(twice)]),
            (result.scores.given, np.take_along_axis(expected, given_of_pairs(twice), axis=1)),
            (result.scores.top_k_log_probs, -np.sort(-expected, axis=1)[:, : ALL.top_k]),
            (result.scores.entropy, -(np.exp(expected) * expected).sum(axis=1)),
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-4)

    with_client(recording, use)


@pytest.mark.parametrize("size", [PLENTY, 1], ids=["kept", "too small to keep it"])
def test_a_job_under_way_is_waited_for_and_not_computed_twice(
    engine: TransformersEngine, size: int, looked_up: list[str]
):
    held = HeldEngine(engine, concurrent_jobs=4)

    async def use(client: AsyncScoringClient) -> None:
        first = asyncio.create_task(client.score(job_for(engine, id="first")))
        await until(lambda: held.started)
        twins = [asyncio.create_task(client.score(job_for(engine, id=f"{n}"))) for n in range(3)]
        other = asyncio.create_task(client.score(job_for(engine, id="other", seed=1)))
        await until(lambda: len(held.started) == 2 and len(looked_up) == 5)
        held.release.set()
        expected = await first
        for twin in twins:
            result = await twin
            assert_same_bits(result.scores, expected.scores)
            assert cached(result) == (3, 22, 0)
            assert result.cost.wait_seconds > 0
        assert cached(await other) == (0, 0, 22)
        assert held.started == ["first", "other"]

    with_client(held, use, content_cache_bytes=size)


def jobs_cancelled() -> float:
    return REGISTRY.get_sample_value("counterhint_teacher_jobs_total", {"reason": "CANCELLED"}) or 0


def test_a_cancelled_job_leaves_its_pairs_to_one_that_waited(
    engine: TransformersEngine, looked_up: list[str]
):
    held = HeldEngine(engine, concurrent_jobs=4)

    async def use(client: AsyncScoringClient) -> None:
        first = asyncio.create_task(client.score(job_for(engine, id="first")))
        await until(lambda: held.started)
        leaver = asyncio.create_task(client.score(job_for(engine, id="leaver")))
        twins = [asyncio.create_task(client.score(job_for(engine, id="twin"))) for _ in range(2)]
        await until(lambda: len(looked_up) == 4)
        ended = jobs_cancelled()
        leaver.cancel()
        await until(lambda: jobs_cancelled() == ended + 1)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        await until(lambda: "first" in held.cancelled)
        await until(lambda: held.started == ["first", "twin"])
        held.release.set()
        results = [await twin for twin in twins]
        assert sorted(cached(result) for result in results) == [(0, 0, 22), (3, 22, 0)]
        assert_same_bits(results[0].scores, results[1].scores)
        assert held.started == ["first", "twin"]

    with_client(held, use)


@pytest.mark.parametrize(("poison", "reason"), [("crash", "ENGINE_FAILED"), ("nan", "NOT_FINITE")])
def test_failures_are_not_kept_and_fail_everyone_who_asks(
    engine: TransformersEngine, poison: str, reason: str
):
    async def use(client: AsyncScoringClient) -> None:
        jobs = [job_for(engine, id=poison) for _ in range(3)]
        outcomes = await asyncio.gather(*map(client.score, jobs), return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, EngineFailure)
            assert outcome.reason == reason
        good = job_for(engine, id="good")
        assert cached(await client.score(good)) == (0, 0, 22)
        assert cached(await client.score(good)) == (3, 22, 0)

    with_client(BrokenEngine(engine), use)


def test_the_one_token_check_reaches_the_engine():
    zero = ZeroEngine()
    one = np.zeros(1, dtype=np.int32)  # what the check asks for

    async def use(client: AsyncScoringClient) -> None:
        job = job_for(zero, contexts=(1,), responses=(1,), pairs=[(0, 0)])
        job = replace(job, contexts=(one,), responses=(one,))
        await client.score(job)
        assert cached(await client.score(job))[0] == 1
        checks = zero.progress()
        await until(lambda: zero.progress() > checks + 2)

    with_client(zero, use, check_seconds=0.05)


def test_without_bytes_nothing_is_remembered(engine: TransformersEngine):
    job = job_for(engine, pairs=[(0, 0), (0, 0)])

    async def use(client: AsyncScoringClient) -> None:
        for _ in range(2):
            assert cached(await client.score(job)) == (0, 0, job.tokens_computed)

    with_client(engine, use, content_cache_bytes=0)


def by_content(job: ScoringJob) -> Scores:
    """Scores that depend on a pair's content, and on nothing else."""
    sampled, given = [], []
    origin = 1000.0 * (job.tokenizer_fingerprint == "g")
    origin += 2000.0 * (0 if job.weights is None else sum(job.weights.sha256.lower().encode()))
    assert job.token_ids is not None
    blocks = np.split(job.token_ids, np.cumsum(job.response_lengths)[:-1])
    for context, response in job.pairs.tolist():
        prefix = origin + 100.0 * job.contexts[context].sum() + 10.0 * len(job.contexts[context])
        sampled.append(-prefix - job.responses[response])
        given.append(-prefix - blocks[response])
    return Scores(
        sampled=np.concatenate(sampled).astype(np.float32),
        given=np.concatenate(given).astype(np.float32),
    )


async def score_by_content(cache: ContentCache, job: ScoringJob) -> tuple[Scores, int]:
    """The scores, and how many pairs were computed."""
    async with cache.look_up(job) as found:
        await asyncio.sleep(0)
        if found.rest is None:
            return found.known_scores(), 0
        return found.with_rest(by_content(found.rest)), len(found.rest.pairs)


@st.composite
def few_contents(draw: st.DrawFn) -> ScoringJob:
    """Jobs that have much in common with each other."""

    def ids(shape: tuple[int, ...]) -> Any:
        return np.full(shape, draw(st.integers(0, 1)), dtype=np.int32)

    lengths = st.lists(st.integers(1, 2), min_size=1, max_size=3)
    contexts, responses = draw(lengths), draw(lengths)
    pair = st.tuples(st.integers(0, len(contexts) - 1), st.integers(0, len(responses) - 1))
    return ScoringJob(
        id="job",
        run_id="run",
        contexts=tuple(ids((length,)) for length in contexts),
        responses=tuple(ids((length,)) for length in responses),
        pairs=pairs_array(draw(st.lists(pair, min_size=1, max_size=6))),
        tokenizer_fingerprint=draw(st.sampled_from("fg")),
        outputs=Outputs(given=True),
        token_ids=np.concatenate([ids((length, 2)) for length in responses]),
        weights=draw(
            st.sampled_from(
                [None, *(Weights("w", "r0", "", hash) for hash in ("A", "a", "b", "own"))]
            )
        ),
    )


@given(st.lists(few_contents(), max_size=12), st.sampled_from([1, 3 * 1100, PLENTY]))
def test_whatever_is_remembered_scores_are_those_of_the_job(jobs: list[ScoringJob], size: int):
    async def run() -> None:
        cache = ContentCache(size, TEACHER)
        for _ in range(2):
            outcomes = await asyncio.gather(*(score_by_content(cache, job) for job in jobs))
            for job, (scores, computed) in zip(jobs, outcomes, strict=True):
                assert_same_bits(scores, by_content(job))
                assert computed <= len(job.pairs)
        if size == PLENTY:
            assert all(computed == 0 for _, computed in outcomes)

    asyncio.run(run())


def test_ids_to_score_are_not_taken_for_the_response():
    ids = np.arange(4, dtype=np.int32)

    def key(response: int) -> bytes:
        """Of the first ids as the response, and the others to score."""
        given = ids[response:].reshape(response, -1)
        job = random_job((3,), (response,), [(0, 0)])
        return pair_keys(replace(job, responses=(ids[:response],), token_ids=given), TEACHER)[0]

    plain = replace(random_job((3,), (4,), [(0, 0)]), responses=(ids,))
    assert len({key(1), key(2), pair_keys(plain, TEACHER)[0]}) == 3


def test_what_is_kept_owns_its_memory():
    kept: list[Scores] = []
    cache = ContentCache(PLENTY, TEACHER)

    async def run() -> None:
        job = random_job(**SMALL, given=2, outputs=Outputs(given=True))
        async with cache.look_up(job) as found:
            found.with_rest(by_content(job))
            kept.extend(found.computed.values())

    asyncio.run(run())
    assert len(kept) == 3
    for scores in kept:
        for array in (scores.sampled, scores.given):
            assert array is not None
            assert array.base is None


def test_pairs_with_missing_numbers_are_explained_and_not_kept():
    job = random_job(**SMALL, outputs=Outputs())  # pairs of 5, 5 and 1 tokens
    again = replace(job, pairs=pairs_array([(1, 1), (1, 0), (0, 0)]))

    def partial(rows: int, lost: int, pair: int) -> Scores:
        sampled = -np.arange(1, rows + 1, dtype=np.float32)
        sampled[lost] = np.nan
        return Scores(sampled=sampled, valid=~np.isnan(sampled), missing=(Missing(pair, "LOST"),))

    async def run() -> None:
        cache = ContentCache(PLENTY, TEACHER)
        async with cache.look_up(job) as found:
            found.with_rest(partial(11, 6, 1))
        async with cache.look_up(again) as found:
            assert found.pairs_cached == 2
            assert found.rest is not None
            scores = found.with_rest(partial(5, 2, 0))
        assert scores.missing == (Missing(1, "LOST"),)
        assert scores.valid is not None
        assert np.flatnonzero(~scores.valid).tolist() == [3]
        expected = [-11, -1, -2, np.nan, -4, -5, -1, -2, -3, -4, -5]
        np.testing.assert_array_equal(scores.sampled, expected)

    asyncio.run(run())
