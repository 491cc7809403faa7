"""A real teacher server in this process, and engines that tests can hold or break."""

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np
from prometheus_client import Gauge

from counterhint.errors import CounterhintError, Unavailable, error_from_rpc
from counterhint.jobs import Scores, ScoringJob, TeacherInfo
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2_grpc
from teacher_server.engines.base import Engine, Scored
from teacher_server.server import ServerOptions, serve


@dataclass
class RunningTeacher:
    """A teacher that serves on a unix socket."""

    address: str
    ended: "asyncio.Task[None]"

    def terminate(self) -> None:
        """Sends SIGTERM, as a container's supervisor does."""
        os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def running_teacher(engine: Engine, **options: Any) -> AsyncIterator[RunningTeacher]:
    """Serves until the block ends, then terminates the server if it has not ended yet."""
    with tempfile.TemporaryDirectory(prefix="teacher") as folder:
        address = f"unix://{folder}/t.sock"
        ready = asyncio.Event()
        # Jobs of one content must all reach the engine where the cache is not what is tested.
        options = {"drain_seconds": 0.2, "content_cache_bytes": 0} | options
        serving = asyncio.create_task(
            serve(ServerOptions(address, **options), lambda: engine, lambda _: ready.set())
        )
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done():
            serving.result()
        teacher = RunningTeacher(address, serving)
        try:
            yield teacher
        finally:
            if not serving.done():
                teacher.terminate()
            with suppress(asyncio.CancelledError, Unavailable):
                await serving


class ZeroEngine(Engine):
    """Scores 0 for every token, without a model; each job is a batch."""

    def __init__(self) -> None:
        self.info = TeacherInfo("zero", "weights", "f" * 64, 64, 256, 64, "zero", "1", 500)
        self._batches = 0

    async def score(self, job: ScoringJob) -> Scored:
        self._batches += 1
        rows = int(job.pair_lengths.sum())
        return Scored(Scores(sampled=np.zeros(rows, np.float32)), "weights", 1, 1.0)

    def progress(self) -> int:
        return self._batches


class HeldEngine(Engine):
    """Holds jobs back until `release` is set; then another engine scores them."""

    def __init__(self, engine: Engine, concurrent_jobs: int = 1) -> None:
        self._engine = engine
        self.info = engine.info
        self.concurrent_jobs = concurrent_jobs
        self.started: list[str] = []
        """Ids of the jobs that arrived, in order."""
        self.cancelled: list[str] = []
        """Ids of the jobs that were cancelled while they were held."""
        self.release = asyncio.Event()

    async def score(self, job: ScoringJob) -> Scored:
        if job.id == "ready":
            return await self._engine.score(job)
        self.started.append(job.id)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise
        return await self._engine.score(job)

    def progress(self) -> int:
        return self._engine.progress()

    async def close(self) -> None:
        await self._engine.close()


class BrokenEngine(Engine):
    """Scores as another engine does, but breaks on jobs whose id says how.

    By the first word: `crash` fails once, `odd` gives numbers of a kind that cannot be sent, `nan`
    gives a score that is not finite, `sicken` fails, and every job after it, `die` ends the engine,
    `hang` keeps a thread for ever, which neither answers nor lets the engine be closed (only for
    processes that end all the same).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info = engine.info
        self._sick = False
        self._thread = ThreadPoolExecutor(1)

    async def score(self, job: ScoringJob) -> Scored:
        match job.id.split()[0]:
            case "crash":
                raise RuntimeError("a kernel failed")
            case "sicken":
                self._sick = True
            case "die":
                raise Unavailable("the engine core died", reason="CORE_DIED")
            case "hang":
                never = asyncio.get_running_loop().run_in_executor(
                    self._thread, threading.Event().wait
                )
                await never
        if self._sick:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        scored = await self._engine.score(job)
        if job.id == "odd" and scored.scores.sampled is not None:
            odd: Any = scored.scores.sampled.astype(np.complex64)
            return replace(scored, scores=replace(scored.scores, sampled=odd))
        if job.id == "nan" and scored.scores.sampled is not None:
            sampled = scored.scores.sampled.copy()
            sampled[2] = np.nan
            return replace(scored, scores=replace(scored.scores, sampled=sampled))
        return scored

    def progress(self) -> int:
        return self._engine.progress()

    async def close(self) -> None:
        self._thread.shutdown(wait=True)
        await self._engine.close()


async def refusal(stub: scoring_pb2_grpc.ScoringServiceStub, job: ScoringJob) -> CounterhintError:
    """The typed error with which a call fails, without the client's further tries."""
    try:
        await stub.Score(job_to_message(job))
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error)
    raise AssertionError(f"job {job.id} was scored")


def gauge(metric: Gauge) -> float:
    """What a gauge shows: those of a teacher are about the one that started last."""
    return float(metric.collect()[0].samples[0].value)


async def until(condition: Any) -> None:
    """Waits for a condition; a broken test ends by pytest's time-out."""
    while not condition():  # noqa: ASYNC110 - conditions of other processes and threads
        await asyncio.sleep(0.005)
