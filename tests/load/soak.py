"""Hours of several runs' traffic through real processes, with shorter pauses between steps."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import redis
import redis.asyncio
from transformers.utils.logging import disable_progress_bar

from counterhint.client import ScoringClient
from services.queue.announcements import wait_for_event
from services.queue.base import JobQueue
from services.queue.records import RunStats
from services.queue.redis_streams import RedisQueue
from tests.faults.site import COUNTERHINT, Child, Site, Teacher
from tests.load.report import Report, Verified
from tests.load.samples import RedisSample, Sample, sample_process
from tests.load.traffic import JOBS_PER_HOUR, VOCAB_SIZE, run_id, snapshot_file, snapshot_of
from tests.load.trainer import Orders, Sent
from tests.load.trainer_process import started_trainers
from tests.load.verification import differences
from tests.tiny_models import write_tiny_llama

CACHE_BYTES = 16 * 1024**2
"""Of the teacher's content cache: it is full before the warm-up is over."""
RESULT_SECONDS = 5
"""How long results can be fetched again, for the same reason; 15 minutes by default."""
REWRITE_BYTES = 8 * 1024**2
"""Size from which Redis rewrites its append-only file, for the same reason; 64 MiB by default."""
STANDING_KEYS = {"probe", "processes", "runs", "settings", "teacher", "total"}
"""What the queue keeps in Redis beside its runs, see docs/queue.md; `drained:N` goes after 30 s."""
LONGEST_EXPIRY = 60.0
"""Seconds after which a key that should have gone is left over."""
SCRAPE_SECONDS = 5.0
"""How often the metrics of services and teacher are read."""

Progress = Callable[[int], None]
"""Is told how many jobs have ended."""


@dataclass(frozen=True)
class Plan:
    """How much is sent."""

    runs: int
    """Trainers, each its own process and run."""
    hours: float
    """Of traffic for each, see `traffic`."""
    step_seconds: float
    """Between the beginnings of two steps, instead of 30 s; steps that take longer are not made up
    for, so that nothing ever has more to hold than at this pace."""
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
    with redis.Redis.from_url(site.redis.url) as server:
        server.config_set("auto-aof-rewrite-min-size", REWRITE_BYTES)
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
            *("--http-listen", "127.0.0.1:0"),
        )
        pages = (f"{teacher.probes}/metrics", services.wait_until_said("metrics on "))
        with ScoringClient(site.intake) as client:
            client.get_teacher(timeout=60.0)
        orders = [
            Orders(run, site.intake, plan.jobs, plan.step_seconds, str(weights), str(samples))
            for run in range(plan.runs)
        ]
        servers = {"services": services.process.pid, "teacher": teacher.process.pid}
        soaking = _Soaking(plan, site.redis.url, servers, pages, progress)
        sent, accounts, left_over = asyncio.run(soaking.run(orders))
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
        left_over=left_over,
        exit_codes=exit_codes,
    )


class _Soaking:
    """The time in which trainers send, and what is sampled in it.

    Args:
        plan: how much is sent.
        redis_url: where the queue is.
        servers: their process ids, by name.
        pages: their metrics.
        progress: told how far it is.
    """

    def __init__(
        self,
        plan: Plan,
        redis_url: str,
        servers: dict[str, int],
        pages: tuple[str, ...],
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._redis_url = redis_url
        self._servers = servers
        self._pages = pages
        self._progress = progress
        self._over = asyncio.Event()
        self._done: Counter[str] = Counter()
        """Jobs that have ended, by trainer."""
        self.samples: list[Sample] = []
        self.redis_samples: list[RedisSample] = []
        self.seconds = 0.0
        """From the first job to the last outcome."""

    async def run(self, orders: list[Orders]) -> tuple[list[Sent], list[RunStats], list[str]]:
        """What the trainers sent, what the queue says of it when everything has ended, and keys
        that it has left in Redis."""
        async with RedisQueue(self._redis_url) as queue:
            async with started_trainers(orders) as trainers:
                pids = {name: trainer.pid for name, trainer in trainers.items()}
                begun = time.monotonic()
                async with asyncio.TaskGroup() as beside:
                    beside.create_task(self._sample(begun, self._servers | pids))
                    beside.create_task(self._scrape())
                    sent = await asyncio.gather(
                        *(
                            trainer.send_all(queue, partial(self._tell, name))
                            for name, trainer in trainers.items()
                        )
                    )
                    self.seconds = time.monotonic() - begun
                    self._over.set()  # not a cancellation: redis-py may swallow it
            return sent, await self._accounts(queue), await self._left_over(orders)

    def _tell(self, trainer: str, jobs: int) -> None:
        self._done[trainer] = jobs
        self._progress(self._done.total())

    async def _sample(self, begun: float, pids: dict[str, int]) -> None:
        async with redis.asyncio.Redis.from_url(self._redis_url) as server:
            info: Any = await server.info()
            pids = {"redis": info["process_id"], **pids}
            while not self._over.is_set():
                seconds = time.monotonic() - begun
                for name, pid in pids.items():
                    sample = sample_process(seconds, name, pid)
                    if sample is not None:
                        self.samples.append(sample)
                info = await server.info("memory")
                keys: int = await server.dbsize()
                self.redis_samples.append(RedisSample(seconds, info["used_memory"], keys))
                await wait_for_event(self._over, self._plan.sample_seconds)

    async def _scrape(self) -> None:
        while not self._over.is_set():
            for page in self._pages:
                await asyncio.to_thread(_read, page)
            await wait_for_event(self._over, SCRAPE_SECONDS)

    async def _left_over(self, orders: list[Orders]) -> list[str]:
        """Redis's keys that should be gone once the last results' time is over."""
        standing = {f"run:{run_id(order.run)}" for order in orders} | STANDING_KEYS
        deadline = time.monotonic() + LONGEST_EXPIRY
        async with redis.asyncio.Redis.from_url(self._redis_url, decode_responses=True) as server:
            while True:
                keys = [str(key) for key in await server.keys()]
                names = {key.removeprefix("{counterhint}:") for key in keys}
                left = {name for name in names - standing if not name.startswith("drained:")}
                if not left or time.monotonic() > deadline:
                    return sorted(left)
                await asyncio.sleep(0.2)

    async def _accounts(self, queue: JobQueue) -> list[RunStats]:
        """The runs' accounts once the queue has ended the jobs that nobody waits for any more."""
        while True:
            accounts = await queue.stats()
            if not any(run.queued or run.claimed for run in accounts):
                return accounts
            await asyncio.sleep(0.1)


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
