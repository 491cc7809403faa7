import asyncio
from collections import Counter
from contextlib import suppress
from random import Random

import pytest

from teacher_server.engines.vllm.turns import Turns


class Worker:
    """Takes a turn, and stays inside until it is told to go."""

    def __init__(self, turns: Turns, key: str) -> None:
        self.key = key
        self.inside = False
        self.begun_meanwhile: Counter[str] = Counter()
        """Turns of other keys that began while it waited."""
        self._go = asyncio.Event()
        self.task = asyncio.create_task(self._work(turns))

    async def _work(self, turns: Turns) -> None:
        async with turns.turn(self.key):
            self.inside = True
            try:
                await self._go.wait()
            finally:
                self.inside = False

    @property
    def waiting(self) -> bool:
        return not self.inside and not self.task.done()

    def go(self) -> None:
        self._go.set()


SETTLED = 10
"""Rounds of the event loop after which nothing happens any more."""


async def settle(rounds: int = SETTLED) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)


@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_keys_take_turns_and_nobody_starves(places, seed):
    random = Random(seed)

    async def play() -> None:
        turns, workers, running = Turns(places), [], set()

        def look() -> None:
            keys = {worker.key for worker in workers if worker.inside}
            assert len(keys) <= places
            for begun in keys - running:
                for worker in workers:
                    if worker.waiting and worker.key != begun:
                        worker.begun_meanwhile[begun] += 1
                        assert worker.begun_meanwhile[begun] == 1
            running.clear()
            running.update(keys)

        settled = SETTLED
        for _ in range(200):
            step = random.choice(["come", "come", "go", "cancel"])
            # What is done before the last step has come to its end meets it halfway.
            rounds = random.choice([0, 1, 2, SETTLED, SETTLED])
            alive = [worker for worker in workers if not worker.task.done()]
            waited = [worker for worker in alive if worker.waiting and settled == SETTLED]
            if step == "come":
                workers.append(Worker(turns, random.choice("abcde")))
            elif alive and step == "go":
                random.choice(alive).go()
            elif alive:
                random.choice(alive).task.cancel()
            await settle(settled := rounds)
            look()
            if step == "come" and waited:
                assert not workers[-1].inside
        await settle()
        while alive := [worker for worker in workers if not worker.task.done()]:
            inside = [worker for worker in alive if worker.inside]
            assert inside
            inside[0].go()
            await settle()
            look()
        assert not any(key in turns for key in "abcde")
        async with turns.turn("f"):
            assert "f" in turns

    asyncio.run(play())


def test_all_who_wait_for_a_key_go_in_together():
    async def play() -> None:
        turns = Turns(1)
        first = Worker(turns, "a")
        await settle()
        waiting = [Worker(turns, key) for key in "bcbab"]
        await settle()
        assert not any(worker.inside for worker in waiting)
        first.go()
        await settle()
        assert [worker.inside for worker in waiting] == [True, False, True, False, True]
        for worker in waiting:
            worker.go()
        await asyncio.gather(*(worker.task for worker in waiting))

    asyncio.run(play())


def test_who_waits_is_not_overtaken_by_those_whose_key_is_inside():
    async def play() -> None:
        turns = Turns(1)
        first = Worker(turns, "a")
        await settle()
        waiting = Worker(turns, "b")
        await settle()
        later = Worker(turns, "a")
        await settle()
        assert not later.inside
        waiting.task.cancel()
        await settle()
        assert later.inside
        for worker in (first, later):
            worker.go()
        with suppress(asyncio.CancelledError):
            await waiting.task

    asyncio.run(play())


def test_newcomers_join_a_turn_that_has_not_begun():
    async def play() -> None:
        not_begun = {"a"}
        turns = Turns(1, not_begun.__contains__)
        workers = [Worker(turns, key) for key in "aba"]
        await settle()
        not_begun.clear()
        workers.append(Worker(turns, "a"))
        await settle()
        assert [worker.inside for worker in workers] == [True, False, True, False]
        not_begun.add("a")  # whose turn comes after the other's
        for worker in workers[::2]:
            worker.go()
        await settle()
        workers.append(Worker(turns, "a"))
        await settle()
        assert [worker.inside for worker in workers] == [False, True, False, False, False]
        for worker in workers:
            worker.go()
        await asyncio.gather(*(worker.task for worker in workers))

    asyncio.run(play())


def test_a_failure_inside_ends_the_turn():
    async def play() -> None:
        turns = Turns(1)
        with pytest.raises(ValueError, match="inside"):
            async with turns.turn("a"):
                raise ValueError("inside")
        assert "a" not in turns

    asyncio.run(play())
