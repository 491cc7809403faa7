"""The life of a teacher process: bind, load, become ready, serve, drain, end."""

import asyncio
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from grpc_health.v1 import health_pb2_grpc

from counterhint.channel import SERVICE_NAME
from counterhint.command_line import EXIT_DONE, EXIT_ENGINE_DEAD
from counterhint.errors import ENGINE_HANGING, Unavailable
from counterhint.http_probes import check_http_address, serve_probes
from counterhint.server_security import ServerSecurity
from counterhint.v1 import scoring_pb2_grpc
from teacher_server import metrics
from teacher_server.admission import Admission
from teacher_server.content_cache import ContentCache
from teacher_server.engines.base import Engine
from teacher_server.readiness import Readiness
from teacher_server.service import TeacherService
from teacher_server.watched_engine import WatchedEngine

LAST_REPLIES = 2.0
"""Seconds that replies have to reach their clients after the drain."""
CLOSE_SECONDS = 10.0
"""Seconds that an engine has to let go of its threads and processes."""

STDERR = 2
"""The file descriptor, which is there whatever stands in for `sys.stderr`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the process serves."""

    listen: str
    """`host:port` (port 0: any free one) or `unix:///path`."""
    security: ServerSecurity = field(default_factory=ServerSecurity)
    """TLS, tokens, and whether plaintext may leave this machine."""
    metrics_listen: str | None = None
    """`host:port` of `/metrics`, `/health` and `/ready`."""
    drain_seconds: float = 30.0
    """How long jobs may still run after the signal to end."""
    ready_seconds: float = 120.0
    """How long the loaded engine may take to start, and again for its first token."""
    hang_seconds: float = 300.0
    """How long an engine that has something to do may make no progress."""
    check_seconds: float = 30.0
    """How often an idle engine is asked for a token."""
    send_seconds: float = 60.0
    """How long a stream may leave a reply untaken before it is ended."""
    max_queued_tokens: int = 1_048_576
    """Most tokens that wait or run."""
    max_held_bytes: int = 2 * 1024**3
    """Most bytes of scores that are being computed or were not sent yet."""
    content_cache_bytes: int = 256 * 1024**2
    """Most bytes of scores that are remembered; 0 for none."""
    stream_jobs: int = 16
    """Jobs of one stream that may be under way or have a reply that was not taken yet."""


def run_teacher(
    options: ServerOptions, make_engine: Callable[[], Engine], announce: Callable[[str], None]
) -> int:
    """Serves in a process of its own until a signal comes or the engine is lost.

    The process ends even when the engine holds a thread or the event loop for ever: once it is to
    end, it has `CLOSE_SECONDS`.

    Returns:
        EXIT_DONE after a signal; EXIT_ENGINE_DEAD when the engine is lost.

    Raises:
        InputError: see `serve`.
    """

    def bound_the_end(code: int) -> None:
        def give_up() -> None:
            log.error("the engine did not end within %g s: it is left behind", CLOSE_SECONDS)
            os._exit(code)

        timer = threading.Timer(CLOSE_SECONDS, give_up)
        timer.daemon = True
        timer.start()

    try:
        asyncio.run(serve(options, make_engine, announce, bound_the_end))
    except Unavailable as error:
        log.error("exit code %d, start the teacher again: %s", EXIT_ENGINE_DEAD, error.message)
        return EXIT_ENGINE_DEAD
    return EXIT_DONE


async def serve(
    options: ServerOptions,
    make_engine: Callable[[], Engine],
    announce: Callable[[str], None] = print,
    ending: Callable[[int], None] = lambda code: None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        options: addresses and bounds.
        make_engine: loads the engine; called once the addresses are known to be free. Until it is
            there, signals end the process at once.
        announce: told one line when the teacher is ready.
        ending: told the exit code before the engine is closed, which may take for ever.

    Raises:
        InputError: an address cannot be used, or the engine cannot be made as asked.
        Unavailable: the engine is lost: dead, hanging, or not ready in time.
    """
    options.security.check(options.listen)
    if options.metrics_listen is not None:
        check_http_address(options.metrics_listen, options.security.insecure)
    engine = make_engine()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watched = WatchedEngine(engine, options.hang_seconds, options.check_seconds)
    admission = Admission(engine, options.max_queued_tokens, options.max_held_bytes)
    cache = ContentCache(options.content_cache_bytes, engine.info)
    metrics.follow(watched, admission)
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(watched.start(options.ready_seconds))
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            if not watched.lost.done():
                await _serve_engine(options, watched, admission, cache, stop, announce)
    finally:
        starting.cancel()
        stopping.cancel()
        ending(EXIT_ENGINE_DEAD if watched.lost.done() else EXIT_DONE)
        await engine.close()
    if watched.lost.done():
        raise watched.lost.result()


async def _serve_engine(
    options: ServerOptions,
    engine: WatchedEngine,
    admission: Admission,
    cache: ContentCache,
    stop: asyncio.Event,
    announce: Callable[[str], None],
) -> None:
    service = TeacherService(
        engine,
        admission,
        cache,
        options.stream_jobs,
        options.send_seconds,
        options.security.authentication,
    )
    readiness = Readiness()
    await readiness.set(False)

    server = options.security.make_server()
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.health, server)
    address = options.security.bind(server, options.listen, [SERVICE_NAME])
    with ExitStack() as probes:
        if options.metrics_listen is not None:
            url = probes.enter_context(
                serve_probes(
                    options.metrics_listen,
                    health=engine.trouble,
                    ready=lambda: "" if readiness.ready else "not ready",
                )
            )
            log.info("metrics on %s/metrics", url)
        await server.start()
        watching = asyncio.create_task(engine.watch())
        starting = asyncio.create_task(engine.first_token(options.ready_seconds))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set() and not engine.lost.done():
                await readiness.set(True)
                info = engine.info
                announce(
                    f"teacher {info.model_id} (weights {info.weights_revision}, {info.engine} "
                    f"{info.engine_version}) ready on {address}"
                )
                ends: set[asyncio.Future[Any]] = {stopping, engine.lost, watching}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()  # nobody serves unwatched
            await readiness.end()
            if engine.lost.done():
                await _engine_lost(engine.lost.result(), service)
            else:
                log.info("draining")
                await service.drain(options.drain_seconds)
        finally:
            for task in (watching, starting, stopping):
                task.cancel()
            await server.stop(LAST_REPLIES)


async def _engine_lost(error: Unavailable, service: TeacherService) -> None:
    log.error(error.message)
    if error.reason == ENGINE_HANGING:  # where it hangs, for whoever reads the log
        faulthandler.dump_traceback(STDERR)
    await service.engine_lost()
