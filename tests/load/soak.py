"""Hours of several runs' traffic through real processes, without the pauses between steps."""

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import redis.asyncio as redis
from transformers.utils.logging import disable_progress_bar

from counterhint.client import ScoringClient
from counterhint.errors import JobNotFound
from services.queue.base import JobQueue
from services.queue.records import RunStats
from services.queue.redis_streams import RedisQueue
from tests.faults.site import COUNTERHINT, Child, Site, Teacher
from tests.load.report import Report, Verified
from tests.load.samples import RedisSample, Sample, sample_process
from tests.load.traffic import JOBS_PER_HOUR, VOCAB_SIZE, snapshot_file, snapshot_of
from tests.load.trainer import Orders, Sent
from tests.load.verification import differences
from tests.tiny_models import write_tiny_llama

REPOSITORY = Path(__file__).parents[2]
CACHE_BYTES = 16 * 1024**2
"""Of the teacher's content cache: it is full before the warm-up is over."""
RESULT_SECONDS = 5
"""How long results can be fetched again, for the same reason; 15 minutes by default."""
SCRAPE_SECONDS = 5.0
"""How often the metrics of services and teacher are read."""
LONGEST_LINE = 1 << 24
"""Bytes of a line of a trainer."""

Progress = Callable[[int], None]
"""Is told how many jobs have ended."""


@dataclass(frozen=True)
class Plan:
    """How much is sent."""

    runs: int
    """Trainers, each its own process and run."""
    hours: float
    """Of traffic for each, see `traffic`."""
    sample_seconds: float = 1.0
    """Between two samples of all processes."""

    @property
    def jobs(self) -> int:
        """Jobs of each run."""
        return round(self.hours * JOBS_PER_HOUR)


def soak(plan: Plan, folder: Path, progress: Progress = lambda done: None) -> Report:
    """Starts Redis, a teacher, the services and the trainers, and ends them when all is sent.

    Args:
        plan: how much is sent.
        folder: an empty one, for models, sockets, logs and scores to verify.
        progress: told how far it is.
    """
    model, weights, samples = folder / "model", folder / "weights", folder / "samples"
    samples.mkdir()
    disable_progress_bar()
    write_tiny_llama(model, vocab_size=VOCAB_SIZE)
    for run in range(plan.runs):
        for snapshot in range(1, snapshot_of(run, plan.jobs) + 1):
            home = snapshot_file(weights, run, snapshot).parent
            write_tiny_llama(home, seed=1000 * run + snapshot, vocab_size=VOCAB_SIZE)
    site = Site(folder)
    site.redis.start()
    teacher: Teacher | None = None
    try:
        teacher = Teacher(
            *(model, folder, "--weights-root", str(weights)),
            *("--content-cache-bytes", str(CACHE_BYTES)),
        )
        services = site.start(
            *(*COUNTERHINT, "services", "run", "--listen", site.intake),
            *("--redis", site.redis.url, "--result-seconds", str(RESULT_SECONDS)),
            *("--teachers", teacher.address, "--metrics-listen", "127.0.0.1:0"),
        )
        pages = (f"{teacher.probes}/metrics", services.wait_until_said("metrics on "))
        with ScoringClient(site.intake) as client:
            client.get_teacher(timeout=60.0)
        orders = [
            Orders(run, site.intake, plan.jobs, str(weights), str(samples))
            for run in range(plan.runs)
        ]
        watched = {"services": services.process.pid, "teacher": teacher.process.pid}
        soaking = _Soaking(plan, site.redis.url, watched, pages, progress)
        sent, accounts = asyncio.run(soaking.run(orders))
        exit_codes = {"services": _ended(services), "teacher": _ended(teacher)}
    finally:
        site.end()
        if teacher is not None:
            teacher.kill()
    return Report(
        hours=plan.hours,
        seconds=soaking.seconds,
        sent=sent,
        accounts=accounts,
        verified=_verify(samples, model, weights),
        samples=soaking.samples,
        redis=soaking.redis_samples,
        exit_codes=exit_codes,
    )


class _Soaking:
    """The time in which trainers send, and what is sampled in it.

    Args:
        plan: how much is sent.
        redis_url: where the queue is.
        watched: process ids of the servers, by name.
        pages: their metrics.
        progress: told how far it is.
    """

    def __init__(
        self,
        plan: Plan,
        redis_url: str,
        watched: dict[str, int],
        pages: tuple[str, ...],
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._redis_url = redis_url
        self._watched = watched
        self._pages = pages
        self._progress = progress
        self._done: Counter[int] = Counter()
        """Jobs that have ended, by run."""
        self.samples: list[Sample] = []
        self.redis_samples: list[RedisSample] = []
        self.seconds = 0.0
        """From the first trainer's start to the last one's end."""

    async def run(self, orders: list[Orders]) -> tuple[list[Sent], list[RunStats]]:
        """What the trainers sent, and what the queue says when everything has ended."""
        async with RedisQueue(self._redis_url) as queue:
            begun = time.monotonic()
            trainers = [await self._start(order) for order in orders]
            keepers = [asyncio.create_task(work) for work in (self._sample(begun), self._scrape())]
            try:
                sent = await asyncio.gather(
                    *(
                        self._follow(order.run, trainer, queue)
                        for order, trainer in zip(orders, trainers, strict=True)
                    )
                )
                self.seconds = time.monotonic() - begun
            finally:
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.wait(keepers)
                for trainer in trainers:
                    with suppress(ProcessLookupError):
                        trainer.kill()
                    await trainer.wait()
            for keeper in keepers:
                with suppress(asyncio.CancelledError):
                    keeper.result()
            return sent, await self._accounts(queue)

    async def _start(self, orders: Orders) -> Process:
        trainer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.load.trainer", json.dumps(asdict(orders))),
            stdin=PIPE,
            stdout=PIPE,
            limit=LONGEST_LINE,
            cwd=REPOSITORY,
        )
        self._watched[_name(orders.run)] = trainer.pid
        return trainer

    async def _follow(self, run: int, trainer: Process, queue: JobQueue) -> Sent:
        """Does what a trainer asks for until it has sent everything."""
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        sent: dict[str, Any] | None = None
        async with asyncio.TaskGroup() as cancels:
            async for line in trainer.stdout:
                match json.loads(line):
                    case {"cancel": job_id}:
                        cancels.create_task(_cancel(queue, job_id))
                    case {"step": jobs}:
                        self._done[run] = jobs
                        self._progress(self._done.total())
                    case {"sent": sent}:
                        del self._watched[_name(run)]
                        trainer.stdin.close()
        code = await trainer.wait()
        if code or sent is None:
            raise RuntimeError(f"trainer {run} ended with {code}; its traceback is above")
        return Sent(**{**sent, "ends": Counter(sent["ends"])})

    async def _sample(self, begun: float) -> None:
        async with redis.Redis.from_url(self._redis_url) as server:
            info: Any = await server.info()
            self._watched["redis"] = info["process_id"]
            while True:
                seconds = time.monotonic() - begun
                for name, pid in self._watched.items():
                    sample = sample_process(seconds, name, pid)
                    if sample is not None:
                        self.samples.append(sample)
                info = await server.info("memory")
                keys: int = await server.dbsize()
                self.redis_samples.append(RedisSample(seconds, info["used_memory"], keys))
                await asyncio.sleep(self._plan.sample_seconds)

    async def _scrape(self) -> None:
        while True:
            for page in self._pages:
                await asyncio.to_thread(_read, page)
            await asyncio.sleep(SCRAPE_SECONDS)

    async def _accounts(self, queue: JobQueue) -> list[RunStats]:
        """The runs' accounts once the queue has ended the jobs that nobody waits for any more."""
        while True:
            accounts = await queue.stats()
            if not any(run.queued or run.claimed for run in accounts):
                return accounts
            await asyncio.sleep(0.1)


def _name(run: int) -> str:
    return f"trainer {run}"


async def _cancel(queue: JobQueue, job_id: str) -> None:
    """Cancels a job as soon as the queue knows it."""
    while True:
        try:
            await queue.cancel(job_id)
        except JobNotFound:
            await asyncio.sleep(0.01)
        else:
            return


def _read(page: str) -> None:
    with urlopen(page, timeout=30.0) as answer:
        answer.read()


def _ended(child: Child) -> int:
    """The exit code of a process that is told to end."""
    child.send(signal.SIGTERM)
    return child.wait()


def _verify(samples: Path, model: Path, weights: Path) -> Verified:
    found = list(differences(samples, model, weights))
    return Verified(
        jobs=len(found),
        numbers=sum(numbers for _, numbers, _ in found),
        largest_difference=max(difference for _, _, difference in found),
    )
