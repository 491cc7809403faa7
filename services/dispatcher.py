"""The dispatcher: takes jobs from the queue to one or more teachers, and their answers back.

One loop claims and routes. It claims only when some teacher has room, so that jobs wait in the
queue, where the runs' shares are decided, and not here.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from counterhint.credentials import NO_CREDENTIALS, Credentials
from counterhint.errors import (
    CounterhintError,
    EngineFailure,
    InvalidJob,
    TokenizerMismatch,
    UnknownFailure,
    WeightsUnavailable,
)
from counterhint.jobs import TeacherInfo
from counterhint.messages import cost_from_message
from counterhint.request_context import within_span, working_for
from counterhint.tracing import Span, past_span
from services import metrics
from services.assembly import Assembly
from services.queue.announcements import wait_for_event
from services.queue.base import JobQueue
from services.queue.errors import NOT_NOW
from services.queue.records import Claim
from services.routing import Router
from services.teacher_link import TeacherLink, TeacherLost, passes_by_itself

log = logging.getLogger(__name__)

CLAIM_SECONDS = 0.5
"""How long one wait for work lasts: how soon the signal to end is noticed."""
HEARTBEATS_PER_LEASE = 3
LONGEST_HEARTBEAT = 5.0
"""Seconds between heartbeats at most: deadlines are looked at as often."""
TEACHER_SECONDS = 60.0
"""How long teachers stay known to the intake after the last of them was lost: long enough for one
to start again, so that jobs are accepted meanwhile."""
LAST_WRITES = 10.0
"""Seconds that the queue has, after the links were closed, to take what became of the jobs."""
LEASE_LOST = "LEASE_LOST"
"""Why a job was given back whose worker let its lease run out."""
PUBLISH_SECONDS = 0.5
"""How often the connected teachers are published."""


@dataclass(frozen=True)
class DispatcherSettings:
    """How much of the queue is out at a time, and how it is spread over the teachers."""

    teacher_tokens: int = 65_536
    """A teacher's capacity: with so many tokens in flight it gets no more jobs."""
    teacher_jobs: int = 16
    """Most jobs in flight at a teacher."""
    imbalance: float = 0.25
    """A job follows its contexts to a teacher that is at most so much more loaded than the least
    loaded one; 1 is the whole capacity."""
    max_part_tokens: int = 32_768
    """With several teachers, larger jobs are split by context."""
    drain_seconds: float = 10.0
    """How long jobs in flight may take after the signal to end, before they are released. A queue
    that is away then leaves them to their leases after `LAST_WRITES`."""


class Dispatcher:
    """Keeps a link to each teacher, the leases of all jobs in flight, and the queue's clock going.

    Args:
        queue: where jobs come from.
        teachers: addresses.
        settings: bounds.
        credentials: what it shows to each teacher.
    """

    def __init__(
        self,
        queue: JobQueue,
        teachers: Sequence[str],
        settings: DispatcherSettings | None = None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        """The name under which jobs are claimed, unlike any other dispatcher's."""
        self._queue = queue
        self._settings = settings = settings or DispatcherSettings()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._router = Router(teachers, settings.imbalance)
        self._links = {
            address: TeacherLink(
                address,
                settings.teacher_tokens,
                settings.teacher_jobs,
                self._accept,
                self._changed,
                credentials,
            )
            for address in teachers
        }
        self._claims: dict[tuple[str, int], Claim] = {}
        """What is claimed and not settled, by job and attempt: the leases to renew."""
        self._finishing: set[asyncio.Task[None]] = set()
        """What waits for answers and settles claims."""

    @property
    def connected(self) -> list[TeacherInfo]:
        """The teachers that are connected now."""
        return [link.teacher for link in self._links.values() if link.teacher is not None]

    @property
    def in_flight(self) -> dict[str, int]:
        """Jobs, or parts of jobs, that are at each teacher or on their way to it, by address."""
        return {address: link.jobs for address, link in self._links.items()}

    def stop(self) -> None:
        """Claims no more; `run` returns when what is in flight is finished or released."""
        self._stop.set()
        self._changed.set()

    async def run(self) -> None:
        """Works until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(self._keep()), tasks.create_task(self._publish())]
            connections = [tasks.create_task(link.run()) for link in self._links.values()]
            await self._route(tasks)
            if self._finishing:
                await asyncio.wait(self._finishing, timeout=self._settings.drain_seconds)
            for link in self._links.values():
                link.close()
            _, late = await asyncio.wait([*connections, *self._finishing], timeout=LAST_WRITES)
            if jobs := len(late & self._finishing):
                log.warning("the queue is away: %d jobs wait for their leases to end", jobs)
            for task in (*late, *keepers):
                task.cancel()

    async def _route(self, tasks: asyncio.TaskGroup) -> None:
        """Claims jobs and sends them until `stop`; each is settled by a task of its own."""
        while not self._stop.is_set():
            if self._unsettled_full or not self._open_links():
                await self._wait_for_change()
                continue
            try:
                claim = await self._queue.claim(self.worker, CLAIM_SECONDS)
            except NOT_NOW as error:
                log.warning("no claims: %s", error)
                await wait_for_event(self._stop, self._queue.settings.retry_after)
                continue
            if claim is None:
                continue
            if (claim.id, claim.attempt) in self._claims:
                # Redis crashed and forgot that we hold it. Given back, it gets an attempt number by
                # which the two can be told apart.
                task = tasks.create_task(self._settle(self._queue.release, claim))
            else:
                self._claims[claim.id, claim.attempt] = claim
                task = await self._deliver(claim, tasks)
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)

    async def _deliver(self, claim: Claim, tasks: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Sends a claimed job; gives the task that waits for its answer and settles the claim."""
        with working_for(claim.run_id, claim.id, claim.trace):
            attempt = {"tokens": claim.cost, "attempt": claim.attempt}
            past_span("queue.wait", claim.wait_seconds, attempt)
            delivery = Span("dispatcher.deliver", attempt)
            with within_span(delivery.traceparent):
                try:
                    assembly = Assembly(claim, self._part_tokens())
                    await self._send(assembly)
                except InvalidJob as error:
                    outcome = self._end(claim, error, delivery)
                else:
                    outcome = self._finish(claim, assembly, delivery)
                return tasks.create_task(outcome)

    @property
    def _unsettled_full(self) -> bool:
        """Whether so much is claimed as the teachers can hold, though they may have answered it."""
        return len(self._claims) >= len(self.connected) * self._settings.teacher_jobs

    def _open_links(self) -> dict[str, TeacherLink]:
        """The teachers that can take a job now."""
        return {address: link for address, link in self._links.items() if link.has_room}

    def _part_tokens(self) -> int:
        """The largest job that travels whole."""
        bounds = [teacher.max_job_tokens for teacher in self.connected]
        if len(bounds) > 1:
            bounds.append(self._settings.max_part_tokens)
        return min(bounds, default=self._settings.max_part_tokens)

    async def _send(self, assembly: Assembly) -> None:
        """Sends a job, its parts as there is room; stops when it has failed or nobody can begin it.

        Raises:
            InvalidJob: it cannot be decoded.
        """
        while assembly.wants_more and not self._stop.is_set():
            if links := self._open_links():
                assembly.send_next(self._choose(assembly, links))
            elif assembly.begun:
                await self._wait_for_change()
            else:
                return

    def _choose(self, assembly: Assembly, links: dict[str, TeacherLink]) -> TeacherLink:
        if len(self._links) == 1:
            return next(iter(links.values()))
        loads = {address: link.load for address, link in links.items()}
        if assembly.alone:  # it would wait for the others to finish
            loads = {address: load for address, load in loads.items() if not load} or loads
        return links[self._router.choose(assembly.next_contexts, assembly.weights, loads)]

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _finish(self, claim: Claim, assembly: Assembly, delivery: Span) -> None:
        """Waits for a job's answers and writes what came of it to the queue."""
        sent = time.monotonic()
        try:
            response = await assembly.response()
        except CounterhintError as error:
            await self._end(claim, error, delivery)
        else:
            delivery.end()
            metrics.SERVICE_SECONDS.observe(time.monotonic() - sent)
            complete = partial(
                self._queue.complete,
                response=response.SerializeToString(),
                cost=cost_from_message(response.cost),
            )
            await self._settle(complete, claim)

    async def _end(self, claim: Claim, error: CounterhintError, delivery: Span) -> None:
        """Gives a job back that was not begun; otherwise the error counts, or is its outcome."""
        delivery.end(error)
        if passes_by_itself(error) and not isinstance(error, TeacherLost):
            metrics.RETRIES.labels(error.reason).inc()
            await self._settle(self._queue.release, claim)
            return
        log.warning("job %s of run %s: %s", claim.id, claim.run_id, error.reason)
        retryable = _may_pass_next_time(error)
        last = claim.failures + 1 >= self._queue.settings.max_attempts
        if not retryable:
            counter = metrics.FAILURES
        else:
            counter = metrics.DEAD_LETTERS if last else metrics.RETRIES
        counter.labels(error.reason).inc()
        await self._settle(partial(self._queue.fail, error=error, retryable=retryable), claim)

    async def _settle(self, write: Callable[[Claim], Awaitable[bool]], claim: Claim) -> None:
        """Writes to the queue, however long it cannot be reached."""
        while True:
            try:
                kept = await write(claim)
            except NOT_NOW as error:
                log.warning("job %s: not settled yet: %s", claim.id, error)
                await asyncio.sleep(self._queue.settings.retry_after)
            else:
                if not kept:
                    metrics.LOST_LEASES.inc()
                    log.warning("job %s: lease lost, what came of it is discarded", claim.id)
                self._claims.pop((claim.id, claim.attempt), None)
                self._changed.set()
                return

    def _accept(self, joining: TeacherLink, teacher: TeacherInfo) -> None:
        """Refuses a teacher whose scores could not stand beside the others'.

        Weights of its own that are newer or older are let in, as in a rolling update: every score
        is stamped with its revision.

        Raises:
            TokenizerMismatch: its token ids mean something else.
            WeightsUnavailable: it is another model.
        """
        for known in self.connected:
            if teacher.tokenizer_fingerprint != known.tokenizer_fingerprint:
                raise TokenizerMismatch(known.tokenizer_fingerprint, teacher.tokenizer_fingerprint)
            if teacher.model_id != known.model_id:
                raise WeightsUnavailable(
                    f"it serves {teacher.model_id!r}, but {known.model_id!r} is connected already: "
                    "give each model services of its own, or the same --model-id to copies of one",
                    reason="OTHER_MODEL",
                    details={"model": teacher.model_id, "connected": known.model_id},
                )
            if teacher.weights_revision != known.weights_revision:
                log.warning(
                    "teacher at %s: its own weights are %s, those of another teacher %s",
                    joining.address,
                    teacher.weights_revision,
                    known.weights_revision,
                )

    async def _keep(self) -> None:
        """Renews leases, then takes back what others lost."""
        seconds = min(self._queue.settings.lease_seconds / HEARTBEATS_PER_LEASE, LONGEST_HEARTBEAT)
        while True:
            try:
                lost = await self._queue.heartbeat(list(self._claims.values()))
                for claim in self._claims.values():  # without those that were settled meanwhile
                    if claim.id in lost:
                        log.warning("job %s: lease lost", claim.id)
                reaped = await self._queue.reap()
                metrics.RETRIES.labels(LEASE_LOST).inc(reaped.redelivered)
                metrics.DEAD_LETTERS.labels(LEASE_LOST).inc(reaped.dead)
                if reaped.redelivered or reaped.dead or reaped.expired:
                    log.info(
                        "taken back: %d jobs; put aside: %d; past their deadline: %d",
                        reaped.redelivered,
                        reaped.dead,
                        reaped.expired,
                    )
            except NOT_NOW as error:
                log.warning("no heartbeat: %s", error)
            await asyncio.sleep(seconds)

    async def _publish(self) -> None:
        """Tells the intakes what is connected, before they forget it."""
        while True:
            if connected := self.connected:
                try:
                    await self._queue.publish_teacher(common_limits(connected), TEACHER_SECONDS)
                except NOT_NOW as error:
                    log.warning("teacher not published: %s", error)
            await asyncio.sleep(PUBLISH_SECONDS)


def common_limits(teachers: Sequence[TeacherInfo]) -> TeacherInfo:
    """The first teacher, with the limits that every one of them keeps.

    `max_job_tokens` is what every job may take. Since jobs are split by context, the intake takes
    larger ones too, as long as each context's share keeps it.
    """
    return replace(
        teachers[0],
        vocab_size=min(teacher.vocab_size for teacher in teachers),
        max_model_len=min(teacher.max_model_len for teacher in teachers),
        max_top_k=min(teacher.max_top_k for teacher in teachers),
        max_job_tokens=min(teacher.max_job_tokens for teacher in teachers),
        outputs=tuple(
            name
            for name in teachers[0].outputs
            if all(name in teacher.outputs for teacher in teachers)
        ),
    )


def _may_pass_next_time(error: CounterhintError) -> bool:
    """Whether another try could end otherwise: not for numbers that are no numbers."""
    return isinstance(error, EngineFailure | UnknownFailure | TeacherLost) and (
        error.reason != "NOT_FINITE"
    )
