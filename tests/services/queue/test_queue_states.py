"""Any order of operations, compared with a simple model, in process and on a real Redis."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from counterhint.errors import EngineFailure, Unavailable
from services.queue.base import JobQueue
from services.queue.records import Claim, JobState, QueuedJob, QueueSettings, Reaped, RunPolicy
from services.queue.redis_streams import RedisQueue

OpenQueue = Callable[[QueueSettings], JobQueue]
CRASH = Unavailable("the engine died", reason="ENGINE_DIED")
BROKEN = EngineFailure("not a number", reason="NOT_FINITE")


def run_of(name: str) -> str:
    return f"run {int(name < 'c')}"


class QueueMachine(RuleBasedStateMachine):
    """Any order of operations: every accepted job is in one place, and ends in one way.

    Leases last no time, so that `reap` is when all of them run out. No job rises: a level is served
    when the higher ones are empty or paused.
    """

    open_queue: OpenQueue
    claims = Bundle("claims")
    ids = st.sampled_from("abcdef")
    runs = st.sampled_from(["run 0", "run 1"])
    priorities: ClassVar = dict(zip("abcdef", (0, 1, 1, 0, 0, 3), strict=True))

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.queue = self.run(
            self.open_queue(QueueSettings(lease_seconds=0.0, aging_seconds=3600.0)).__aenter__()
        )
        self.states: dict[str, JobState] = {}
        self.failures: dict[str, int] = {}
        self.holder: dict[str, tuple[str, int]] = {}
        self.bodies: dict[str, bytes] = {}
        self.doomed: set[str] = set()
        self.paused: set[str] = set()
        self.operator: set[str] = set()
        self.known: set[str] = set()

    def run(self, awaitable):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(awaitable)

    @rule(
        name=ids,
        doomed=st.booleans(),
        policy=st.sampled_from([None, RunPolicy(), RunPolicy(2.0), RunPolicy(0.5, max_jobs=6)]),
    )
    def enqueue(self, name: str, doomed: bool, policy: RunPolicy | None) -> None:
        known = self.states.get(name)
        expected = known
        if known in (None, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED):
            expected = self.states[name] = JobState.QUEUED
            self.failures[name] = 0
            self.doomed.discard(name)
            if doomed:
                self.doomed.add(name)
            self.known.add(run_of(name))
        elif known in (JobState.QUEUED, JobState.CLAIMED) and not doomed:
            self.doomed.discard(name)
        submitted = QueuedJob(
            name,
            run_of(name),
            10,
            b"payload",
            priority=self.priorities[name],
            timeout=0.0 if doomed else None,
        )
        assert self.run(self.queue.enqueue(submitted, policy)) is expected

    @rule(target=claims, worker=st.sampled_from(["one", "two"]))
    def claim(self, worker: str) -> Claim | None:
        claimed = self.run(self.queue.claim(worker))
        if claimed is None:
            self.expire(self.claimable())
            assert self.claimable() <= self.barred(worker)
            return None
        assert claimed.id not in self.barred(worker)
        for name in sorted(self.doomed):  # a claim ends the doomed jobs that it meets
            if self.run(self.queue.job(name)).state is JobState.EXPIRED:
                self.states[name] = JobState.EXPIRED
                self.doomed.discard(name)
        assert self.states[claimed.id] is JobState.QUEUED
        assert claimed.id not in self.doomed
        assert run_of(claimed.id) not in self.paused
        sound = self.claimable() - self.doomed - self.barred(worker)
        assert self.priorities[claimed.id] == max(self.priorities[name] for name in sound)
        self.states[claimed.id] = JobState.CLAIMED
        self.holder[claimed.id] = (claimed.worker, claimed.attempt)
        return claimed

    def barred(self, worker: str) -> set[str]:
        """Jobs that failed before, while another worker has such: in process there is none."""
        suspects = {name for name, failures in self.failures.items() if failures > 0}
        held = {n for n in suspects if self.states[n] is JobState.CLAIMED}
        others = any(self.holder[name][0] != worker for name in held)
        return suspects - self.doomed if others and isinstance(self.queue, RedisQueue) else set()

    def claimable(self) -> set[str]:
        return {
            name
            for name, state in self.states.items()
            if state is JobState.QUEUED and run_of(name) not in self.paused
        }

    def expire(self, among: Iterable[str]) -> int:
        late = [name for name in self.doomed if self.states[name] is JobState.QUEUED]
        late = [name for name in late if name in among]
        for name in late:
            self.states[name] = JobState.EXPIRED
            self.doomed.discard(name)
        return len(late)

    def holds(self, claim: Claim) -> bool:
        return self.states[claim.id] is JobState.CLAIMED and self.holder[claim.id] == (
            claim.worker,
            claim.attempt,
        )

    def count_failure(self, name: str) -> JobState:
        self.failures[name] += 1
        dead = self.failures[name] >= 3
        self.states[name] = JobState.DEAD if dead else JobState.QUEUED
        return self.states[name]

    @rule(claim=consumes(claims), body=st.binary(max_size=4))
    def complete(self, claim: Claim | None, body: bytes) -> None:
        assume(claim is not None)
        held = self.holds(claim)
        assert self.run(self.queue.complete(claim, body)) == held
        if held:
            self.states[claim.id] = JobState.DONE
            self.bodies[claim.id] = body

    @rule(claim=claims, retryable=st.booleans())
    def fail(self, claim: Claim | None, retryable: bool) -> None:
        assume(claim is not None)
        held = self.holds(claim)
        error = CRASH if retryable else BROKEN
        assert self.run(self.queue.fail(claim, error, retryable=retryable)) == held
        if held and retryable:
            self.count_failure(claim.id)
        elif held:
            self.states[claim.id] = JobState.FAILED

    @rule(claim=claims)
    def release(self, claim: Claim | None) -> None:
        assume(claim is not None)
        held = self.holds(claim)
        assert self.run(self.queue.release(claim)) == held
        if held:
            self.states[claim.id] = JobState.QUEUED

    @rule()
    def reap(self) -> None:
        lost = [name for name, state in self.states.items() if state is JobState.CLAIMED]
        after = Counter(self.count_failure(name) for name in lost)
        reaped = self.run(self.queue.reap())
        assert reaped == Reaped(after[JobState.QUEUED], after[JobState.DEAD], self.expire("abcdef"))

    @rule(name=ids)
    def cancel(self, name: str) -> None:
        assume(name in self.states)
        if not self.states[name].finished:
            self.states[name] = JobState.CANCELLED
        assert self.run(self.queue.cancel(name)) is self.states[name]

    @rule(name=ids)
    def retry(self, name: str) -> None:
        assume(name in self.states)
        dead = self.states[name] is JobState.DEAD
        assert self.run(self.queue.retry(name)) == dead
        if dead:
            self.states[name] = JobState.QUEUED
            self.failures[name] = 0
            self.doomed.discard(name)

    @rule(run=runs)
    def pause(self, run: str) -> None:
        self.run(self.queue.pause(run))
        self.paused.add(run)
        self.known.add(run)

    @rule(run=runs)
    def resume(self, run: str) -> None:
        assume(run in self.known)
        assert self.run(self.queue.resume(run)) == (run in self.paused)
        self.paused.discard(run)
        if not any(run_of(name) == run for name in self.states) and run not in self.operator:
            self.known.discard(run)  # a run of which nothing is known is none

    @rule(run=runs, weight=st.sampled_from([None, 0.25, 4.0]))
    def set_policy(self, run: str, weight: float | None) -> None:
        self.run(self.queue.set_policy(run, None if weight is None else RunPolicy(weight)))
        if weight is not None:
            self.operator.add(run)
            self.known.add(run)
        else:
            self.operator.discard(run)
            if not any(run_of(name) == run for name in self.states) and run not in self.paused:
                self.known.discard(run)  # a run of which nothing is known is none

    @rule(run=runs)
    def purge(self, run: str) -> None:
        purged = 0
        for name in [name for name in self.states if run_of(name) == run]:
            if not self.states[name].finished:
                self.states[name] = JobState.CANCELLED
                purged += 1
            elif self.states[name] is JobState.DEAD:
                del self.states[name]
                purged += 1
        assert self.run(self.queue.purge(run)) == purged

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        for stats in self.run(self.queue.stats()):
            states = Counter(
                state for name, state in self.states.items() if run_of(name) == stats.run_id
            )
            assert stats.queued == states[JobState.QUEUED]
            assert stats.claimed == states[JobState.CLAIMED]
            assert stats.bytes == 7 * (stats.queued + stats.claimed)
            assert stats.dead == states[JobState.DEAD]
            assert stats.paused == (stats.run_id in self.paused)
            assert stats.tokens >= 10 * states[JobState.CLAIMED]

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        for run in sorted(self.paused):
            self.run(self.queue.resume(run))
        for name, state in self.states.items():
            assert self.run(self.queue.job(name)).state is state
            ended = self.run(self.queue.outcome(name))
            assert (ended is not None) == state.finished
            if state is JobState.DONE:
                assert ended.body == self.bodies[name]
        while (claimed := self.run(self.queue.claim("last"))) is not None:
            self.run(self.queue.complete(claimed, b""))
        while self.run(self.queue.reap()) != Reaped():
            while (claimed := self.run(self.queue.claim("last"))) is not None:
                self.run(self.queue.complete(claimed, b""))
        assert all(self.run(self.queue.job(name)).state.finished for name in self.states)
        assert all(
            (run.queued, run.claimed, run.bytes) == (0, 0, 0)
            for run in self.run(self.queue.stats())
        )
        self.run(self.queue.__aexit__(None, None, None))
        self.loop.close()


def test_any_order_of_operations_keeps_every_job_in_one_place(open_queue: OpenQueue) -> None:
    class Machine(QueueMachine):
        pass

    Machine.open_queue = staticmethod(open_queue)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
