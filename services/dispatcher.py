"""The dispatcher: takes jobs from the queue to one or more teachers."""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import replace

from counterhint.errors import TokenizerMismatch
from counterhint.jobs import TeacherInfo
from services.queue.base import JobQueue
from services.queue.errors import NOT_NOW
from services.teacher_link import LinkSettings, TeacherLink

log = logging.getLogger(__name__)

HEARTBEATS_PER_LEASE = 3
LONGEST_HEARTBEAT = 5.0
"""Seconds between heartbeats at most: deadlines are looked at as often."""
TEACHER_SECONDS = 60.0
"""How long teachers stay known to the intake after the last of them was lost: long enough for one
to start again, so that jobs are accepted meanwhile."""
PUBLISH_SECONDS = 0.5
"""How often the connected teachers are published."""


class Dispatcher:
    """Keeps a link to each teacher, the leases of all jobs in flight, and the queue's clock going.

    Args:
        queue: where jobs come from.
        teachers: addresses.
        settings: bounds of each link.
        teacher_seconds: how long lost teachers stay known.
    """

    def __init__(
        self,
        queue: JobQueue,
        teachers: Sequence[str],
        settings: LinkSettings | None = None,
        teacher_seconds: float = TEACHER_SECONDS,
    ) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        """The name under which jobs are claimed, unlike any other dispatcher's."""
        self._queue = queue
        self._teacher_seconds = teacher_seconds
        self._stop = asyncio.Event()
        self._links = [
            TeacherLink(
                address, self.worker, queue, settings or LinkSettings(), self._accept, self._stop
            )
            for address in teachers
        ]

    def stop(self) -> None:
        """Claims no more; `run` returns when what is in flight is finished or released."""
        self._stop.set()

    async def run(self) -> None:
        """Works until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(self._keep()), tasks.create_task(self._publish())]
            await asyncio.wait([tasks.create_task(link.run()) for link in self._links])
            for keeper in keepers:
                keeper.cancel()

    def _accept(self, joining: TeacherLink, teacher: TeacherInfo) -> None:
        """Refuses a teacher whose token ids mean something else than the others'.

        Raises:
            TokenizerMismatch: that.
        """
        for link in self._links:
            if link is not joining and link.teacher is not None:
                known = link.teacher.tokenizer_fingerprint
                if teacher.tokenizer_fingerprint != known:
                    raise TokenizerMismatch(known, teacher.tokenizer_fingerprint)

    async def _keep(self) -> None:
        """Renews leases, then takes back what others lost."""
        seconds = min(self._queue.settings.lease_seconds / HEARTBEATS_PER_LEASE, LONGEST_HEARTBEAT)
        while True:
            try:
                claims = [claim for link in self._links for claim in link.claims]
                for lost in await self._queue.heartbeat(claims):
                    log.warning("job %s: lease lost", lost)
                reaped = await self._queue.reap()
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
            connected = [link.teacher for link in self._links if link.teacher is not None]
            if connected:
                try:
                    await self._queue.publish_teacher(
                        common_limits(connected), self._teacher_seconds
                    )
                except NOT_NOW as error:
                    log.warning("teacher not published: %s", error)
            await asyncio.sleep(PUBLISH_SECONDS)


def common_limits(teachers: Sequence[TeacherInfo]) -> TeacherInfo:
    """The first teacher, with the limits that every one of them keeps."""
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
