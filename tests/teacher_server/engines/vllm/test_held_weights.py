import asyncio
import gc
from dataclasses import dataclass, field

import pytest

from counterhint import Weights
from teacher_server.engines.vllm.held_weights import HeldWeights


def named(revision: str) -> Weights:
    return Weights("run", revision, f"file:///{revision}.safetensors", "0" * 64)


@dataclass
class Engine:
    """Something that holds strings in place of weights, and notes what is done to it."""

    done: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    broken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gate.set()

    def prepare(self, weights: Weights | None) -> str:
        revision = weights.revision if weights else "own"
        if f"prepare {revision}" in self.broken:
            raise ValueError(f"prepare {revision}")
        return revision

    async def load(self, weights: Weights | None, revision: str) -> str:
        await self.gate.wait()
        if f"load {revision}" in self.broken:
            raise ValueError(f"load {revision}")
        self.done.append(f"load {revision}")
        return revision

    async def drop(self, revision: str) -> None:
        self.done.append(f"drop {revision}")

    def held(self, bound: int) -> HeldWeights[str, str]:
        return HeldWeights(bound, self.prepare, self.load, self.drop)


async def once(held: HeldWeights[str, str], revision: str) -> None:
    async with held.use(named(revision)) as got:
        assert got == revision
        await asyncio.sleep(0)


def test_the_least_recently_used_weights_go_first():
    async def play() -> None:
        engine = Engine()
        held = engine.held(2)
        for revision in ("1", "2", "1", "3", "1", "2"):
            await once(held, revision)
            assert len(held.held) <= 2
        assert engine.done == ["load 1", "load 2", "drop 2", "load 3", "drop 3", "load 2"]

    asyncio.run(play())


def test_weights_are_loaded_once_for_all_and_not_dropped_in_use():
    async def play() -> None:
        engine = Engine()
        held = engine.held(1)
        async with held.use(named("1")), held.use(named("1")):
            other = asyncio.create_task(once(held, "2"))
            await asyncio.sleep(0.05)
            assert engine.done == ["load 1"]
        await other
        # The first is loaded when the others come, so those that want the same join it.
        await asyncio.gather(*(once(held, revision) for revision in "313131"))
        assert engine.done[3:] == ["drop 2", "load 3", "drop 3", "load 1"]

    asyncio.run(play())


def test_weights_that_cannot_be_read_change_nothing():
    async def play() -> None:
        engine = Engine(broken={"prepare 2"})
        held = engine.held(1)
        await once(held, "1")
        with pytest.raises(ValueError, match="prepare 2"):
            await once(held, "2")
        await once(held, "1")
        assert engine.done == ["load 1"]

    asyncio.run(play())


def test_after_a_failed_load_nothing_is_taken_for_held():
    async def play() -> None:
        engine = Engine(broken={"load 2"})
        held = engine.held(1)
        await once(held, "1")
        failures = await asyncio.gather(*(once(held, "2") for _ in "ab"), return_exceptions=True)
        assert [str(failure) for failure in failures] == ["load 2"] * 2
        assert not held.held
        await once(held, "1")
        engine.broken.clear()
        await once(held, "2")
        assert engine.done == ["load 1", "drop 1", "load 1", "drop 1", "load 2"]

    asyncio.run(play())


def test_a_failure_that_nobody_waits_for_any_more_is_told_in_the_log(caplog):
    unheard: list[dict[str, object]] = []

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unheard.append(what))
        engine = Engine(broken={"load 1"})
        held = engine.held(1)
        engine.gate.clear()
        loading = asyncio.create_task(once(held, "1"))
        await asyncio.sleep(0.05)
        loading.cancel()
        engine.gate.set()
        await asyncio.wait([loading])
        assert loading.cancelled()
        del loading
        gc.collect()

    asyncio.run(play())
    assert "1.safetensors were not loaded: load 1" in caplog.text
    assert not unheard


def test_a_job_that_is_cancelled_while_it_loads_keeps_its_turn_until_the_end():
    async def play() -> None:
        engine = Engine()
        held = engine.held(1)
        engine.gate.clear()
        loading = asyncio.create_task(once(held, "1"))
        await asyncio.sleep(0.05)
        loading.cancel()
        other = asyncio.create_task(once(held, "2"))
        await asyncio.sleep(0.05)
        assert not loading.done()
        engine.gate.set()
        await other
        assert loading.cancelled()
        assert engine.done == ["load 1", "drop 1", "load 2"]

    asyncio.run(play())
