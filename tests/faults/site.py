"""The parts of a site as real processes, started by their command lines, for tests to break.

All of them speak over unix sockets in one folder. Tests look into the queue through its Redis, as
the commands for people do.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterhint.channel import SERVICE_NAME, open_channel
from counterhint.client import ScoringClient
from counterhint.credentials import NO_CREDENTIALS, Credentials
from counterhint.errors import CounterhintError, JobNotFound, error_from_rpc
from counterhint.jobs import ScoringJob, ScoringResult
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from deploy.local.redis import LocalRedis
from services.queue.base import JobQueue
from services.queue.records import JobRecord, JobState, RunStats
from services.queue.redis_streams import RedisQueue
from tests.processes import wait_until

T = TypeVar("T")

COUNTERHINT = (sys.executable, "-m", "deploy.cli")
LEASE_SECONDS = 1.5
"""Long enough for heartbeats on a busy machine, short enough to wait for its end."""
PATIENCE = 240.0
"""Seconds of calls that are to be answered: processes start meanwhile, on a busy machine slowly."""


class Child:
    """A child process; what it says goes to a log."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        restore_signals: bool = True,
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "HF_HUB_OFFLINE": "1",
                    **(environment or {}),
                },
                restore_signals=restore_signals,
            )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stops the process (SIGSTOP) while the block runs: its connections stay."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def wait(self) -> int:
        return self.process.wait(timeout=600.0)

    def kill(self) -> None:
        """SIGKILL: it ends without a word, also one that stands still."""
        self.process.kill()
        self.process.wait()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_until_said(self, text: str) -> str:
        """The rest of the line after a text, once it has been said."""

        def there() -> bool:
            if text in self.said:
                return True
            assert not self.ended, self.said
            return False

        wait_until(there)
        return self.said.partition(text)[2].partition("\n")[0].strip()

    @property
    def resident_bytes(self) -> int:
        """Memory that it has now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Teacher(Child):
    """A real teacher process on a unix socket, which is ready."""

    def __init__(self, model: Path, folder: Path, *flags: str) -> None:
        self.address = f"unix://{folder}/teacher.sock"
        command = [*COUNTERHINT, "teacher", "serve", "--model", str(model)]
        command += ["--listen", self.address, "--metrics-listen", "127.0.0.1:0", *flags]
        super().__init__(command, folder / "teacher.log")
        self.probes = self.wait_until_said("metrics on ").removesuffix("/metrics")
        self.wait_until_said(" ready on ")

    def client(self) -> ScoringClient:
        """Straight to it, without a queue."""
        return ScoringClient(self.address, timeout=PATIENCE)

    @property
    def fingerprint(self) -> str:
        """Of its tokenizer."""
        with self.client() as client:
            return client.get_teacher().tokenizer_fingerprint

    def figure(self, name: str) -> float:
        """One of its metrics, by name and labels as the page has them; 0 before it is there."""
        with urlopen(f"{self.probes}/metrics", timeout=PATIENCE) as page:
            for line in page.read().decode().splitlines():
                found, _, value = line.rpartition(" ")
                if found == f"counterhint_teacher_{name}":
                    return float(value)
        return 0.0


class Site:
    """A Redis, and what is started around it; `end` ends all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis = LocalRedis(folder / "redis")
        self.intake = f"unix://{folder}/intake.sock"
        self._children: list[Child] = []

    def end(self) -> None:
        for child in self._children:
            child.kill()
        self.redis.kill()

    def start(
        self, *command: str, environment: Mapping[str, str] | None = None, **options: Any
    ) -> Child:
        """Starts any command."""
        log = self.folder / f"child{len(self._children)}.log"
        self._children.append(Child(command, log, environment, **options))
        return self._children[-1]

    def services(
        self,
        *names: str,
        teacher: str | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> Child:
        """Starts `services run` on the site's Redis; both services when none is named.

        With a teacher, it is connected to it, and the intake is ready.
        """
        command = [*COUNTERHINT, "services", "run", *(names or ("intake", "dispatcher"))]
        command += ["--redis", self.redis.url, "--lease-seconds", str(lease_seconds)]
        command += ["--listen", self.intake]
        command += [] if teacher is None else ["--teachers", teacher]
        started = self.start(*command, *flags, environment=environment)
        if teacher is not None:
            started.wait_until_said(f"at {teacher}: connected")
        if teacher is not None and "intake" in command:
            wait_until(lambda: is_ready(self.intake))
        return started

    def client(self) -> ScoringClient:
        return ScoringClient(self.intake, timeout=PATIENCE)

    def ask(self, question: Callable[[JobQueue], Awaitable[T]]) -> T:
        """What the queue knows, asked of its Redis by one that looks on."""

        async def answer() -> T:
            async with RedisQueue(self.redis.url) as queue:
                return await question(queue)

        return asyncio.run(answer())

    def job(self, job_id: str) -> JobRecord:
        return self.ask(lambda queue: queue.job(job_id))

    def run_stats(self, run_id: str = "run") -> RunStats:
        async def stats(queue: JobQueue) -> RunStats:
            return (await queue.run(run_id)).stats

        return self.ask(stats)

    def submit_in_order(
        self, client: ScoringClient, *jobs: ScoringJob
    ) -> list[Future[ScoringResult]]:
        """Submits jobs, each once the one before is in the queue."""
        calls = []
        for job in jobs:
            calls.append(client.submit(job))
            wait_until(partial(self.knows, job.id))
        return calls

    def knows(self, job_id: str) -> bool:
        """Whether the queue has a job."""
        try:
            self.job(job_id)
        except JobNotFound:
            return False
        return True

    def wait_for_state(self, state: JobState, *job_ids: str) -> None:
        def reached() -> bool:
            try:
                return all(self.job(job_id).state is state for job_id in job_ids)
            except JobNotFound:
                return False

        wait_until(reached)


def is_ready(address: str) -> bool:
    """What the gRPC health service says; false when nobody answers."""

    async def check() -> bool:
        async with open_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            try:
                reply = await health.Check(
                    health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=PATIENCE
                )
            except grpc.aio.AioRpcError:
                return False
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    return asyncio.run(check())


def http_status(url: str) -> int:
    """The status of a probe; 0 when nobody answers."""
    try:
        with urlopen(url, timeout=PATIENCE) as page:
            return int(page.status)
    except HTTPError as error:
        return error.code
    except (URLError, ConnectionError):
        return 0


def one_call(
    address: str,
    request: scoring_pb2.ScoreRequest,
    credentials: Credentials = NO_CREDENTIALS,
) -> scoring_pb2.ScoreResponse | CounterhintError:
    """The answer to one call, without the client's checks and further tries."""

    async def call() -> scoring_pb2.ScoreResponse | CounterhintError:
        async with open_channel(address, credentials) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            try:
                response: scoring_pb2.ScoreResponse = await stub.Score(
                    request, timeout=PATIENCE, metadata=credentials.metadata()
                )
            except grpc.aio.AioRpcError as error:
                return error_from_rpc(error)
            return response

    return asyncio.run(call())
