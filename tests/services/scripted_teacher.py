"""A teacher without a model: it speaks the contract, and misbehaves as the job's id says.

Log prob of a token: minus its id over 100. By the first word of the id: `crash` ends the process,
`hang` never answers, `broken` is an engine failure, `nan` is a score that is not finite, `busy` is
refused once before it is scored.

As a process of its own: `python -m tests.services.scripted_teacher ADDRESS LOG`; each job that it
gets is a line in LOG.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from counterhint.channel import SERVER_OPTIONS
from counterhint.errors import CounterhintError, EngineFailure, Overloaded, failure_to_message
from counterhint.jobs import Cost, Scores, ScoringJob, ScoringResult, TeacherInfo, pairs_array
from counterhint.messages import job_from_message, result_to_message, teacher_to_message
from counterhint.request_context import TraceContext, accept_message
from counterhint.tensors import TokenIds
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc

FINGERPRINT = "f" * 64


def make_job(
    job_id: str, tokens: int = 4, run_id: str = "run", fingerprint: str = FINGERPRINT
) -> ScoringJob:
    """A job of one context of two tokens and one response of so many."""
    response = np.arange(tokens, dtype=np.int32) % 64
    return ScoringJob(
        id=job_id,
        run_id=run_id,
        contexts=(np.array([1, 2], dtype=np.int32),),
        responses=(response,),
        pairs=pairs_array([(0, 0)]),
        tokenizer_fingerprint=fingerprint,
    )


def expected_scores(job: ScoringJob) -> np.ndarray:
    """What the scripted teacher answers, `[N]`."""
    ids = np.concatenate([job.responses[index] for index in job.pairs[:, 1]])
    return ids.astype(np.float32) / -100


class ScriptedTeacher(scoring_pb2_grpc.ScoringServiceServicer):
    """The servicer; `received` lists the ids of all jobs in the order in which they came."""

    scores: Callable[[ScoringJob], np.ndarray] = staticmethod(expected_scores)
    """What it answers."""

    def __init__(
        self, fingerprint: str = FINGERPRINT, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self.info = TeacherInfo("scripted", "r0", fingerprint, 64, 4096, 8, "script", "1", 8192)
        self.received: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.jobs: list[ScoringJob] = []
        """What `received` lists, in full."""
        self.traces: dict[str, TraceContext] = {}
        """What came beside the jobs of streams, by their ids."""
        self.reads: Callable[[TokenIds], int] = lambda context: 0
        """How many tokens of a context that it reads are in its prefix cache."""
        self.open = asyncio.Event()
        """Answers wait while it is cleared."""
        self.open.set()
        self.busy_seconds = 0.1
        """How long it asks to be left alone when it is busy."""
        self._note = note

    async def GetTeacher(self, request, context):  # noqa: N802
        return teacher_to_message(self.info)

    async def Score(self, request, context):  # noqa: N802
        return await self._score(request)

    async def ScoreStream(self, requests, context):  # noqa: N802
        writing = asyncio.Lock()

        async def answer(request: scoring_pb2.ScoreStreamRequest) -> None:
            reply = scoring_pb2.ScoreStreamResponse(id=request.job.id)
            self.traces[request.job.id] = accept_message(request.trace)
            try:
                reply.response.CopyFrom(await self._score(request.job))
            except CounterhintError as error:
                reply.failure.CopyFrom(failure_to_message(error))
            async with writing:
                await context.write(reply)

        async with asyncio.TaskGroup() as answers:
            async for request in requests:
                answers.create_task(answer(request))

    async def _score(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        job = job_from_message(request)
        first_time = job.id not in self.received
        self.received.append(job.id)
        self.jobs.append(job)
        self._note(job.id)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if job.tokens_computed > self.info.max_job_tokens:
                raise Overloaded("too large", reason="JOB_TOO_LARGE")
            match job.id.split()[0]:
                case "crash":
                    os._exit(1)
                case "hang" if "elsewhere" not in job.id:  # that hangs other teachers only
                    await asyncio.Event().wait()
                case "broken":
                    raise EngineFailure("the engine failed", reason="ENGINE_FAILED")
                case "nan":
                    raise EngineFailure("not a number", reason="NOT_FINITE")
                case "busy" if first_time:
                    raise Overloaded("busy", reason="TEACHER_BUSY", retry_after=self.busy_seconds)
            await self.open.wait()
        finally:
            self.under_way -= 1
        cached = sum(self.reads(context) for context in job.contexts)
        return result_to_message(
            ScoringResult(
                job_id=job.id,
                pair_lengths=job.pair_lengths,
                scores=Scores(sampled=self.scores(job)),
                weights_revision=self.info.weights_revision,
                tokenizer_fingerprint=self.info.tokenizer_fingerprint,
                model_id=self.info.model_id,
                engine=self.info.engine,
                engine_version=self.info.engine_version,
                cost=Cost(job.tokens_naive, job.tokens_computed - cached, wait_seconds=0.25),
            )
        )


@asynccontextmanager
async def serving(teacher: ScriptedTeacher, address: str) -> AsyncIterator[ScriptedTeacher]:
    """Serves it while the block runs; leaving the block cuts every connection."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(teacher, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    name = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name
    await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield teacher
    finally:
        await server.stop(None)


async def _main(arguments: Sequence[str]) -> None:
    address, log = arguments

    def note(job_id: str) -> None:
        with Path(log).open("a", encoding="utf-8") as lines:
            lines.write(f"{job_id}\n")

    async with serving(ScriptedTeacher(note=note), address):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
