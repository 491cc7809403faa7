"""Which teacher a job goes to."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from counterhint.jobs import ScoringJob, Weights
from counterhint.tensors import TokenIds
from services.routing import BLOCK_TOKENS, Router, shared_opening
from tests.services.prefix_cache import PrefixCache, run_jobs

TWO = ("unix:///one", "unix:///two")
EIGHT = tuple(f"10.0.0.{number}:50051" for number in range(8))
IDLE = dict.fromkeys(TWO, 0.0)


def random_tokens(rng: np.random.Generator, number: int) -> TokenIds:
    return rng.integers(0, 50_000, number).astype(np.int32)


def make_group(rng: np.random.Generator, system: TokenIds, hints: int = 6) -> list[TokenIds]:
    """Contexts of one problem: system message, problem, template, hints that begin alike."""
    common = np.concatenate([system, random_tokens(rng, 70), random_tokens(rng, 20)])
    return [
        np.concatenate([common, np.array([7, 8], dtype=np.int32), random_tokens(rng, 90)])
        for _ in range(hints)
    ]


def groups(number: int, seed: int = 0) -> list[list[TokenIds]]:
    rng = np.random.default_rng(seed)
    system = random_tokens(rng, 200)
    return [make_group(rng, system) for _ in range(number)]


def weights_of(name: str, revision: str = "r1") -> Weights:
    return Weights(name, revision, "file:///weights", "0" * 64)


@pytest.mark.parametrize("teachers", [TWO, EIGHT], ids=["two", "eight"])
@pytest.mark.parametrize("hints", [1, 6])
def test_groups_with_one_system_message_spread_over_the_teachers(
    teachers: tuple[str, ...], hints: int
) -> None:
    router = Router(teachers, imbalance=0.25)
    idle = dict.fromkeys(teachers, 0.0)
    chosen = Counter(router.choose(group[:hints], None, idle) for group in groups(500))
    assert max(chosen.values()) <= 500 * 1.2 / len(teachers) + 20
    assert len(chosen) == len(teachers)


def test_every_dispatcher_chooses_alike() -> None:
    one, other = Router(TWO, 0.25), Router(tuple(reversed(TWO)), 0.25)
    for group in groups(50):
        assert one.choose(group, None, IDLE) == other.choose(group, None, IDLE)


def test_the_hash_is_the_same_in_every_process_and_version() -> None:
    """Pinned: dispatchers of two versions may share a queue."""
    router = Router(EIGHT, 0.25)
    idle = dict.fromkeys(EIGHT, 0.0)
    contexts = [np.arange(first, first + 40, dtype=np.int32) for first in range(6)]
    plain = [router.choose([context], None, idle) for context in contexts]
    assert [EIGHT.index(teacher) for teacher in plain] == [5, 3, 5, 7, 2, 6]
    named = [router.choose([context], weights_of("run"), idle) for context in contexts]
    assert [EIGHT.index(teacher) for teacher in named] == [1, 5, 0, 5, 1, 2]


def test_other_hints_of_a_group_go_to_its_teacher_even_in_another_dispatcher() -> None:
    for group in groups(50):
        first = Router(TWO, 0.25).choose(group[:3], None, IDLE)
        assert Router(TWO, 0.25).choose(group[3:], None, IDLE) == first


def test_one_of_a_group_s_contexts_alone_goes_where_it_was_seen() -> None:
    router = Router(TWO, 0.25)
    for group in groups(50):
        first = router.choose(group, None, IDLE)
        for context in group:
            assert router.choose([context], None, IDLE) == first


def test_an_overloaded_teacher_s_job_goes_to_the_least_loaded_and_its_group_follows() -> None:
    router = Router(EIGHT, 0.25)
    idle = dict.fromkeys(EIGHT, 0.0)
    for group in groups(50):
        home = Router(EIGHT, 0.25).choose(group, None, idle)
        least = EIGHT[(EIGHT.index(home) + 3) % 8]
        loads = dict.fromkeys(EIGHT, 0.2) | {home: 0.31, least: 0.05}
        assert router.choose(group, None, loads) == least
        assert router.choose(group[2:], None, idle) == least


def test_a_teacher_within_the_imbalance_keeps_its_groups() -> None:
    for group in groups(50):
        home = Router(TWO, 0.25).choose(group, None, IDLE)
        assert Router(TWO, 0.25).choose(group, None, IDLE | {home: 0.25}) == home


def test_who_cannot_take_a_job_is_not_chosen_and_the_others_keep_theirs() -> None:
    idle = dict.fromkeys(EIGHT, 0.0)
    without = dict.fromkeys(EIGHT[1:], 0.0)
    for group in groups(100):
        home = Router(EIGHT, 0.25).choose(group, None, idle)
        elsewhere = Router(EIGHT, 0.25).choose(group, None, without)
        assert elsewhere == home or home == EIGHT[0]
        assert elsewhere != EIGHT[0]


def test_runs_with_weights_of_their_own_keep_to_some_of_the_teachers() -> None:
    router = Router(EIGHT, 0.25)
    idle = dict.fromkeys(EIGHT, 0.0)
    names = [f"run-{number}" for number in range(4)]
    for name in names:
        router.choose(groups(1)[0], weights_of(name), idle)
    used: dict[str, set[str]] = {name: set() for name in names}
    for number, group in enumerate(groups(200, seed=1)):
        name = names[number % 4]
        used[name].add(router.choose(group, weights_of(name), idle))
    assert [len(teachers) for teachers in used.values()] == [2, 2, 2, 2]


def test_one_run_with_weights_of_its_own_uses_every_teacher() -> None:
    router = Router(TWO, 0.25)
    chosen = Counter(router.choose(group, weights_of("run"), IDLE) for group in groups(100))
    assert min(chosen.values()) > 30


def test_more_runs_than_teachers_have_one_teacher_each() -> None:
    router = Router(TWO, 0.25)
    used: dict[str, set[str]] = {}
    for number, group in enumerate(groups(300)):
        name = f"run-{number % 6}"
        where = router.choose(group, weights_of(name), IDLE)
        if number >= 6:  # all six are known
            used.setdefault(name, set()).add(where)
    assert [len(teachers) for teachers in used.values()] == [1] * 6


def test_what_other_weights_have_read_says_nothing() -> None:
    router = Router(TWO, 0.25)
    for group in groups(30):
        home = Router(TWO, 0.25).choose(group, None, IDLE)
        (other,) = set(TWO) - {home}
        assert router.choose(group, weights_of("run"), {other: 0.0}) == other
        assert router.choose(group, None, IDLE) == home


def opening(*contexts: TokenIds) -> list[int]:
    shared = shared_opening([context.tobytes() for context in contexts])
    return np.frombuffer(shared, dtype=np.int32).tolist()


def test_the_opening_is_whole_blocks_of_what_all_contexts_share() -> None:
    rng = np.random.default_rng(0)
    common = random_tokens(rng, 2 * BLOCK_TOKENS + 5)
    blocks = common[: 2 * BLOCK_TOKENS].tolist()
    contexts = [np.append(common, np.int32(end)) for end in (3, 256, 2)]
    assert opening(*contexts) == blocks
    assert opening(common, contexts[0]) == blocks
    assert opening(contexts[0]) == contexts[0].tolist()
    strangers = [random_tokens(rng, 40), random_tokens(rng, 30)]
    assert opening(*strangers) == strangers[0].tolist()


def test_prefix_hits_are_those_of_one_teacher_and_taking_turns_would_lose_them() -> None:
    """Two teachers that are never loaded, so that only the choice counts."""
    runs = [run_jobs("a", 0, 15), run_jobs("b", 1, 15), run_jobs("c", 2, 15)]
    twin = [[], [], *runs[0]]  # the same groups in another run, one step later
    rng = np.random.default_rng(3)
    jobs: list[ScoringJob] = []
    for of_runs in zip(*runs, twin[: len(runs[0])], strict=True):
        together = [job for of_run in of_runs for job in of_run]
        jobs += [together[number] for number in rng.permutation(len(together))]

    def hit_share(teachers: tuple[str, ...], choose: Callable[[int, ScoringJob], str]) -> float:
        caches = {teacher: PrefixCache(120_000 // len(teachers)) for teacher in teachers}
        for number, job in enumerate(jobs):
            cache = caches[choose(number, job)]
            for context in job.contexts:
                cache.read(context)
        return sum(cache.cached_tokens for cache in caches.values()) / sum(
            cache.read_tokens for cache in caches.values()
        )

    router = Router(TWO, 0.25)
    alone = hit_share(TWO[:1], lambda number, job: TWO[0])
    routed = hit_share(TWO, lambda number, job: router.choose(job.contexts, None, IDLE))
    by_turns = hit_share(TWO, lambda number, job: TWO[number % 2])
    by_chance = hit_share(TWO, lambda number, job: TWO[rng.integers(2)])
    assert abs(alone - routed) < 0.05
    assert max(by_turns, by_chance) < alone - 0.05
