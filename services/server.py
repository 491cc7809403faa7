"""The intake's gRPC server: bind, say whether it is ready, serve, drain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from counterhint.channel import SERVICE_NAME
from counterhint.server_security import ServerSecurity
from counterhint.v1 import scoring_pb2_grpc
from services.intake import IntakeService
from services.queue.base import JobQueue
from services.queue.errors import NOT_NOW
from services.submission import Submissions

READINESS_SECONDS = 0.5
"""How often it is looked whether the queue takes jobs and a teacher is known."""
LAST_REPLIES = 2.0
"""Seconds that replies have to reach their clients after the drain."""


@asynccontextmanager
async def serve_intake(
    queue: JobQueue, listen: str, security: ServerSecurity | None = None, *, stream_jobs: int = 1024
) -> AsyncIterator[str]:
    """Serves the intake while the block runs; gives the address that clients use.

    It says that it is ready when the queue takes jobs and a teacher is known.

    Raises:
        InputError: the address cannot be used.
    """
    security = security or ServerSecurity()
    security.check(listen)
    submissions = Submissions(queue)
    service = IntakeService(submissions, stream_jobs, security.authentication)
    status = health.aio.HealthServicer()

    server = security.make_server()
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    address = security.bind(server, listen, [SERVICE_NAME])
    await server.start()
    readiness = asyncio.create_task(_tell_readiness(queue, status))
    try:
        yield address
    finally:
        readiness.cancel()
        await status.enter_graceful_shutdown()
        submissions.drain()
        await server.stop(LAST_REPLIES)


async def _tell_readiness(queue: JobQueue, status: health.aio.HealthServicer) -> None:
    states = health_pb2.HealthCheckResponse
    while True:
        try:
            await queue.probe()
            ready = await queue.teacher() is not None
        except NOT_NOW:
            ready = False
        for name in ("", SERVICE_NAME):
            await status.set(name, states.SERVING if ready else states.NOT_SERVING)
        await asyncio.sleep(READINESS_SECONDS)
