"""The services' commands that work: `services run`, `bench queue`."""

import asyncio
import json
import logging
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from counterhint.certificates import check_client_certificates
from counterhint.command_line import EXIT_DONE, Command
from counterhint.credentials import Credentials
from counterhint.errors import InputError, Unavailable
from counterhint.heap import bound_heap
from counterhint.http_probes import check_http_address, serve_probes
from counterhint.logs import LoggedCommand
from counterhint.server_security import SecuredServer, ServerSecurity
from services.bench_queue import bench_queue
from services.dispatcher import Dispatcher, DispatcherSettings
from services.gateway.server import check_gateway_address, serve_gateway
from services.gateway.tokenizer import Tokenizer
from services.monitoring import watched
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import QueueSettings
from services.redis_url import open_redis, without_password
from services.server import serve_intake

log = logging.getLogger(__name__)

ServiceName = Literal["intake", "dispatcher", "gateway"]
EVERY_SERVICE: tuple[ServiceName, ...] = ("intake", "dispatcher", "gateway")


class Run(SecuredServer, LoggedCommand):
    """Run the queue services in this process until SIGTERM or Ctrl-C; without names, all of them.

    intake      takes scoring jobs over gRPC and puts them on the queue
    dispatcher  takes them from the queue to the teachers
    gateway     takes jobs and shows signals over HTTP: the scoring API, /docs, the token view

    Without --redis the queue lives in this process, which then must run the dispatcher and at least
    one of the others.

    example:
      counterhint services run --listen 127.0.0.1:50050 --teachers 127.0.0.1:50051 \\
        --http-listen 127.0.0.1:8080 --tokenizer models/teacher
      curl -s http://127.0.0.1:8080/v1/distill/score -H 'Content-Type: application/json' -d '{
        "problem": "What is 2+3?", "correct_hint": "2+3=5", "correct_answer": "5",
        "wrong_hints": [{"hint": "2+3=6", "answer": "6"}], "responses": ["2+3 = 5"]}'
      counterhint services run intake --listen 127.0.0.1:50050 --redis redis://127.0.0.1:6379/0
      counterhint services run --listen 0.0.0.0:50050 --teachers 127.0.0.1:50051 \\
        --tokens tokens.json --tls-cert intake.pem --tls-key intake.key
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_SERVICES_")

    services: CliPositionalArg[list[ServiceName]] = Field([])
    """Which services to run; all when none is named."""
    listen: str = "127.0.0.1:50050"
    """Where the intake listens: host:port (port 0: any free one) or unix:///path."""
    teachers: list[str] = Field([])
    """A teacher's address, host:port or unix:///path; repeatable."""
    http_listen: str = "127.0.0.1:8080"
    """Where the gateway listens: host:port (port 0: any free one)."""
    tokenizer: Path | None = None
    """Folder of the teacher's tokenizer (tokenizer.json, tokenizer_config.json, chat template), for
    the gateway; without it the gateway takes token ids only."""
    runs_dir: Path | None = None
    """Folder of the run folders that the gateway shows; none by default."""
    metrics_listen: str | None = None
    """host:port of /metrics, /health and /ready over HTTP; none by default."""
    redis: str | None = None
    """The queue's Redis: redis://host:port/0, rediss://… or unix:///path."""
    max_jobs: int = Field(QueueSettings.max_jobs, ge=1)
    """Most unfinished jobs in the queue."""
    max_bytes: int = Field(QueueSettings.max_bytes, ge=1)
    """Most payload bytes of unfinished jobs."""
    max_run_jobs: int = Field(QueueSettings.max_run_jobs, ge=1)
    """Most unfinished jobs of one run."""
    max_run_bytes: int = Field(QueueSettings.max_run_bytes, ge=1)
    """Most payload bytes of one run's unfinished jobs."""
    lease_seconds: float = Field(QueueSettings.lease_seconds, gt=0)
    """After how long without a sign of life a dispatcher's jobs go to another."""
    max_attempts: int = Field(QueueSettings.max_attempts, ge=1)
    """Deliveries that may end badly before a job is put aside."""
    result_seconds: float = Field(QueueSettings.result_seconds, gt=0)
    """How long a result can be fetched again."""
    aging_seconds: float = Field(QueueSettings.aging_seconds, gt=0)
    """After how long in one priority's level a waiting job rises into the next."""
    teacher_tokens: int = Field(DispatcherSettings.teacher_tokens, ge=1)
    """Tokens in flight at which a teacher gets no more jobs."""
    teacher_jobs: int = Field(DispatcherSettings.teacher_jobs, ge=1)
    """Most jobs in flight at a teacher."""
    imbalance: float = Field(DispatcherSettings.imbalance, ge=0)
    """How much more loaded than the least loaded teacher one may be and still get the jobs whose
    contexts it has read; a share of --teacher-tokens."""
    max_part_tokens: int = Field(DispatcherSettings.max_part_tokens, ge=1)
    """With several teachers, jobs of more computed tokens are split by context."""
    drain_seconds: float = Field(DispatcherSettings.drain_seconds, ge=0)
    """How long jobs in flight may take after the signal to end; the others are released."""
    teacher_token_file: Path | None = None
    """File that holds the dispatcher's token, an operator's, for teachers that ask for one."""
    teacher_tls_ca: Path | None = None
    """Authorities (PEM) of the teachers' certificates; with it teachers are spoken to by TLS."""
    teacher_tls_cert: Path | None = None
    """The dispatcher's own certificate chain (PEM), for teachers that ask for one."""
    teacher_tls_key: Path | None = None
    """The key of --teacher-tls-cert (PEM, not encrypted)."""

    def run(self) -> int:
        """Serves until a signal comes."""
        self.start_logs("services")
        bound_heap()
        wanted = tuple(self.services) or EVERY_SERVICE
        if self.redis is None and ("dispatcher" not in wanted or len(set(wanted)) == 1):
            raise InputError(
                f"services run {' '.join(wanted)} without --redis: a queue in this process needs "
                "the dispatcher together with the intake or the gateway; name them, or give "
                "--redis URL"
            )
        if "dispatcher" in wanted and not self.teachers:
            raise InputError(
                "the dispatcher has no teacher: give --teachers host:port (or unix:///path), once "
                "for each"
            )
        if self.metrics_listen is not None:
            check_http_address(self.metrics_listen, self.insecure)
        security = self.security()
        tokenizer = None
        if "gateway" in wanted:
            check_gateway_address(self.http_listen, security)
            tokenizer = self._tokenizer()
        asyncio.run(self._serve(wanted, security, self._credentials(), tokenizer))
        return EXIT_DONE

    def _tokenizer(self) -> Tokenizer | None:
        if self.runs_dir is not None and not self.runs_dir.is_dir():
            raise InputError(f"--runs-dir {self.runs_dir}: no such folder")
        return None if self.tokenizer is None else Tokenizer.load(self.tokenizer)

    def _credentials(self) -> Credentials:
        """What the dispatcher shows to teachers."""
        credentials = Credentials(
            token_file=self.teacher_token_file,
            tls_ca=self.teacher_tls_ca,
            tls_cert=self.teacher_tls_cert,
            tls_key=self.teacher_tls_key,
            insecure=self.insecure,
            named=_teacher_flag,
        )
        check_client_certificates(credentials)
        for teacher in self.teachers:
            credentials.check(teacher)
        return credentials

    async def _serve(
        self,
        wanted: Sequence[ServiceName],
        security: ServerSecurity,
        credentials: Credentials,
        tokenizer: Tokenizer | None,
    ) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        settings = QueueSettings(
            max_jobs=self.max_jobs,
            max_bytes=self.max_bytes,
            max_run_jobs=self.max_run_jobs,
            max_run_bytes=self.max_run_bytes,
            lease_seconds=self.lease_seconds,
            max_attempts=self.max_attempts,
            result_seconds=self.result_seconds,
            aging_seconds=self.aging_seconds,
        )
        async with AsyncExitStack() as stack:
            if self.redis is None:
                queue: JobQueue = await stack.enter_async_context(MemoryQueue(settings))
            else:
                queue = await stack.enter_async_context(await open_redis(self.redis, settings))
            dispatcher: Dispatcher | None = None
            if "intake" in wanted:
                address = await stack.enter_async_context(
                    serve_intake(queue, self.listen, security)
                )
                log.info("intake on %s", address)
            if "gateway" in wanted:
                url = await stack.enter_async_context(
                    serve_gateway(
                        queue,
                        self.http_listen,
                        security,
                        tokenizer=tokenizer,
                        runs_dir=self.runs_dir,
                    )
                )
                log.info("gateway on %s", url)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            if "dispatcher" in wanted:
                dispatcher = Dispatcher(
                    queue,
                    self.teachers,
                    DispatcherSettings(
                        teacher_tokens=self.teacher_tokens,
                        teacher_jobs=self.teacher_jobs,
                        imbalance=self.imbalance,
                        max_part_tokens=self.max_part_tokens,
                        drain_seconds=self.drain_seconds,
                    ),
                    credentials,
                )
                tasks.create_task(dispatcher.run())
                stack.callback(dispatcher.stop)  # before the group waits for it
                log.info("dispatcher %s to %s", dispatcher.worker, ", ".join(self.teachers))
            if self.metrics_listen is not None or "gateway" in wanted:
                watch = await stack.enter_async_context(watched(queue, dispatcher))
                if self.metrics_listen is not None:
                    url = stack.enter_context(
                        serve_probes(self.metrics_listen, watch.trouble, watch.unready)
                    )
                    log.info("metrics on %s/metrics", url)
            await stop.wait()
            log.info("stopping")


class BenchQueue(Command):
    """Measure the queue: jobs through enqueue, claim and complete, and claims by number of runs.

    Without --redis, the queue in this process is measured. A Redis may be in use: keys have a
    prefix of their own and are removed at the end.

    example:
      counterhint bench queue --redis redis://127.0.0.1:6379/0 --json
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_SERVICES_")

    redis: str | None = None
    """The Redis to measure: redis://host:port/0, rediss://… or unix:///path."""
    jobs: int = Field(10_000, ge=1)
    """Jobs that go the whole way."""
    runs: int = Field(8, ge=1)
    """Runs that they belong to."""
    payload_bytes: int = Field(20_000, ge=0)
    """Size of a request and of a result; some 20 kB are a group's job."""
    workers: int = Field(16, ge=1)
    """Coroutines that submit, and as many that claim and complete."""
    json_: bool = Field(False, alias="json")
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Measures and prints."""
        try:
            figures = asyncio.run(
                bench_queue(self.redis, self.jobs, self.runs, self.payload_bytes, self.workers)
            )
        except (ValueError, Unavailable) as error:
            shown = without_password(self.redis or "")
            raise InputError(f"--redis {shown}: {error}") from error
        if self.json_:
            print(json.dumps(asdict(figures), indent=2))
            return EXIT_DONE
        print(f"{figures.queue}: {figures.jobs_per_second:.0f} jobs/s")
        for claims in figures.claims:
            print(
                f"a claim among {claims.runs:>4} runs: {claims.median_seconds * 1e6:>6.0f} µs "
                f"(p95 {claims.p95_seconds * 1e6:.0f} µs)"
            )
        return EXIT_DONE


def _teacher_flag(field: str) -> str:
    """The flag of a field of the dispatcher's `Credentials`."""
    return "--insecure" if field == "insecure" else f"--teacher-{field.replace('_', '-')}"
