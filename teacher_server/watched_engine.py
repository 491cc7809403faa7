"""Whether the engine still scores: every job passes here, and an idle engine is tried."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from counterhint.errors import (
    ENGINE_DEAD,
    ENGINE_HANGING,
    CounterhintError,
    EngineFailure,
    Unavailable,
)
from counterhint.jobs import ScoringJob, TeacherInfo
from counterhint.messages import check_finite
from teacher_server.engines.base import Engine, Scored

LONGEST_LOOK = 1.0
"""Seconds between two looks at the engine's progress, at most."""

log = logging.getLogger(__name__)


class WatchedEngine:
    """An engine, and the verdict on it.

    The engine is lost when

    - it raises `Unavailable`, or says that it is dead,
    - it cannot score one token: it is asked before the first job, after every
      failure, and when nothing was heard of it for `check_seconds`,
    - a job or that token is with it, and for `hang_seconds` it neither answers any job nor makes
      progress. A busy engine is never lost, however long its jobs take.

    Then the jobs that are inside get `Unavailable`, whatever the engine does with them.

    Args:
        engine: as it was made.
        hang_seconds: see above; must exceed the engine's slowest step.
        check_seconds: see above.
    """

    def __init__(self, engine: Engine, hang_seconds: float, check_seconds: float) -> None:
        self._engine = engine
        self._hang_seconds = hang_seconds
        self._check_seconds = check_seconds
        self.lost: asyncio.Future[Unavailable] = asyncio.get_running_loop().create_future()
        """Why the engine is lost, once it is."""
        self._looked_at = time.monotonic()
        self._inside = 0
        self._owes = False
        """Whether a job came since its last sign of life. A job that is cancelled takes no debt
        with it: a hanging engine must not escape by its clients' deadlines."""
        self._answers = 0
        self._suspect = False
        """Whether a job has failed since the last check."""

    @property
    def info(self) -> TeacherInfo:
        """What the engine serves."""
        return self._engine.info

    def progress(self) -> int:
        """The engine's own count of what it did."""
        return self._engine.progress()

    def trouble(self) -> str:
        """Why this process had better end; empty while all is well. For any thread."""
        if self.lost.done():
            return self.lost.result().message
        still = time.monotonic() - self._looked_at
        if still > self._hang_seconds:
            return f"the event loop has stood still for {still:.0f} s"
        return ""

    async def score(self, job: ScoringJob) -> Scored:
        """What the engine says to the job.

        Raises:
            Unavailable: the engine is lost, before or while it had the job.
            EngineFailure: a score is not finite.
            Exception: what the engine raises for this job.
        """
        return await self._answer(partial(self._engine.score, job))

    async def _answer(self, ask: Callable[[], Coroutine[Any, Any, Scored]]) -> Scored:
        if self.lost.done():
            raise self.lost.result()
        work = asyncio.ensure_future(ask())
        self._inside += 1
        self._owes = True
        try:
            ends: set[asyncio.Future[Any]] = {work, self.lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._inside -= 1
            work.cancel()  # which a finished one does not notice
        if not work.done():
            raise self.lost.result()
        self._answers += 1
        try:
            scored = work.result()
            check_finite(scored.scores)
        except Unavailable as error:
            raise self._lose(ENGINE_DEAD, error.message) from error
        except Exception as error:
            refused = isinstance(error, CounterhintError) and not isinstance(error, EngineFailure)
            self._suspect |= not refused
            raise
        return scored

    async def start(self, seconds: float) -> None:
        """Has the engine do what comes before its first job; it is lost when that takes longer.

        Raises:
            InputError: the engine cannot serve as asked.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._engine.start()
        except TimeoutError:
            self._lose(ENGINE_HANGING, f"it did not start within --ready-seconds {seconds:g}")

    async def first_token(self, seconds: float) -> None:
        """Has the engine score its first token; it is lost when it cannot, or not in this time."""
        try:
            async with asyncio.timeout(seconds):
                await self._check()
        except TimeoutError:
            self._lose(ENGINE_HANGING, f"no token was scored within --ready-seconds {seconds:g}")

    async def watch(self) -> None:
        """Looks after the engine until it is lost."""
        look = min(LONGEST_LOOK, self._hang_seconds / 10, self._check_seconds)
        signs, silent, owed = self._signs_of_life(), 0.0, 0.0
        check: asyncio.Task[None] | None = None
        while not self.lost.done():
            # Counted in looks, not by the clock: the time in which this process is paused is none
            # in which the engine could have worked.
            await asyncio.sleep(look)
            self._looked_at = time.monotonic()
            if self._engine.dead():
                self._lose(ENGINE_DEAD, "it has ended")
            if signs == self._signs_of_life():
                silent += look
                owed = owed + look if self._owes else 0.0
            else:
                signs, silent, owed = self._signs_of_life(), 0.0, 0.0
                self._owes = self._inside > 0
            if owed >= self._hang_seconds:
                self._lose(
                    ENGINE_HANGING,
                    f"no progress for --hang-seconds {self._hang_seconds:g} with "
                    f"{self._inside} jobs inside",
                )
            idle = not self._inside and (self._owes or silent >= self._check_seconds)
            if (idle or self._suspect) and (check is None or check.done()):
                check = asyncio.create_task(self._check())

    async def _check(self) -> None:
        """Asks for one token; an engine that cannot score it is lost."""
        self._suspect = False
        try:
            await self._answer(self._engine.check)
        except Exception as error:  # whatever it is, no job can do better than this one
            if not self.lost.done():
                log.exception("the engine cannot score one token")
            self._lose(ENGINE_DEAD, f"one token cannot be scored: {error!r}")

    def _signs_of_life(self) -> tuple[int, int]:
        return self._engine.progress(), self._answers

    def _lose(self, reason: str, why: str) -> Unavailable:
        if not self.lost.done():
            what = "has died" if reason == ENGINE_DEAD else "hangs"
            self.lost.set_result(
                Unavailable(f"the teacher's engine {what}: {why}", reason=reason, retry_after=1.0)
            )
        return self.lost.result()
