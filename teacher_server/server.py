"""The life of a teacher process: bind, load, become ready, serve, drain."""

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from counterhint.addresses import bound_address, check_address
from counterhint.channel import SERVER_OPTIONS, SERVICE_NAME
from counterhint.errors import InputError
from counterhint.jobs import ScoringJob, pairs_array
from counterhint.v1 import scoring_pb2_grpc
from teacher_server.engines.base import Engine
from teacher_server.service import TeacherService

LAST_REPLIES = 2.0
"""Seconds that replies have to reach their clients after the drain."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the process serves."""

    listen: str
    """`host:port` (port 0: any free one) or `unix:///path`."""
    insecure: bool = False
    """Whether plaintext may leave this machine."""
    drain_seconds: float = 30.0
    """How long jobs may still run after the signal to end."""
    max_queued_tokens: int = 1_048_576
    """Most tokens that wait or run."""
    stream_jobs: int = 16
    """Most jobs of one stream under way."""


async def serve(
    options: ServerOptions,
    make_engine: Callable[[], Engine],
    announce: Callable[[str], None] = print,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        options: address and bounds.
        make_engine: loads the engine; called once the address is known to be free. Until it is
            there, signals end the process at once.
        announce: told one line when the teacher is ready.

    Raises:
        InputError: the address cannot be used, or the engine cannot be made as asked.
    """
    check_address(options.listen, options.insecure)
    engine = make_engine()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await _serve_engine(options, engine, stop, announce)
    finally:
        await engine.close()


async def _serve_engine(
    options: ServerOptions, engine: Engine, stop: asyncio.Event, announce: Callable[[str], None]
) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    service = TeacherService(engine, options.max_queued_tokens, options.stream_jobs)
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(service, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await _set_health(status, serving=False)
    reflection.enable_server_reflection(
        (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        port = server.add_insecure_port(options.listen)
    except RuntimeError as error:
        raise InputError(f"--listen {options.listen}: the address cannot be bound") from error
    await server.start()
    try:
        await engine.score(_canary(engine))
        await _set_health(status, serving=True)
        info = engine.info
        announce(
            f"teacher {info.model_id} (weights {info.weights_revision}, {info.engine} "
            f"{info.engine_version}) ready on {bound_address(options.listen, port)}"
        )
        await stop.wait()
        log.info("draining")
        await status.enter_graceful_shutdown()
        await service.drain(options.drain_seconds)
    finally:
        await server.stop(LAST_REPLIES)


def _canary(engine: Engine) -> ScoringJob:
    ids = np.zeros(1, dtype=np.int32)
    return ScoringJob(
        "ready", "", (ids,), (ids,), pairs_array([(0, 0)]), engine.info.tokenizer_fingerprint
    )


async def _set_health(status: health.aio.HealthServicer, serving: bool) -> None:
    states = health_pb2.HealthCheckResponse
    for name in ("", SERVICE_NAME):
        await status.set(name, states.SERVING if serving else states.NOT_SERVING)
