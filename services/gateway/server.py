"""The gateway's HTTP server: bind, serve, drain."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from typing_extensions import override

from counterhint.addresses import stays_here
from counterhint.errors import InputError
from counterhint.http_probes import check_http_address
from counterhint.server_security import ServerSecurity
from services.gateway.app import make_app
from services.gateway.http_protocol import TimedHeads
from services.gateway.run_folders import RunFolders
from services.gateway.state import Gateway, Limits
from services.gateway.tls import keep_current, tls_context
from services.gateway.tokenizer import Tokenizer
from services.queue.base import JobQueue
from services.submission import Submissions

OPTION = "--http-listen"
LAST_REPLIES = 2
"""Seconds that replies have to reach their clients after the drain."""
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})


def check_gateway_address(listen: str, security: ServerSecurity) -> None:
    """Refuses an address that the gateway cannot or should not listen on.

    Raises:
        InputError: as `check_http_address`.
    """
    check_http_address(listen, security.insecure or security.tls is not None, OPTION)


@asynccontextmanager
async def serve_gateway(
    queue: JobQueue,
    listen: str,
    security: ServerSecurity | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    runs_dir: Path | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[str]:
    """Serves the gateway while the block runs; gives its URL.

    Args:
        queue: where jobs go.
        listen: `host:port`; port 0 takes any free one.
        security: tokens and TLS.
        tokenizer: the teacher's; without it only token ids are taken.
        runs_dir: folder of the run folders to show.
        limits: bounds of one request.

    Raises:
        InputError: the address cannot be used.
    """
    security = security or ServerSecurity()
    check_gateway_address(listen, security)
    submissions = Submissions(queue)
    host = listen.rpartition(":")[0].removeprefix("[").removesuffix("]")
    gateway = Gateway(
        queue=queue,
        submissions=submissions,
        tokenizer=tokenizer,
        authentication=security.authentication,
        runs=None if runs_dir is None else RunFolders(runs_dir),
        limits=limits or Limits(),
        hosts=_LOOPBACK_NAMES | {host} if stays_here(listen) else None,
    )
    context = None if security.tls is None else tls_context(security.tls)
    config = uvicorn.Config(
        make_app(gateway),
        http=TimedHeads,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=LAST_REPLIES,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    server = _Server(config)
    with _bound(host, int(listen.rpartition(":")[2]), listen) as bound:
        serving = asyncio.create_task(server.serve([bound]), name="gateway")
        renewing = None
        if security.tls is not None and context is not None:
            renewing = asyncio.create_task(keep_current(security.tls, context))
        try:
            await server.listening.wait()
            shown = f"[{host}]" if ":" in host else host
            scheme = "http" if context is None else "https"
            yield f"{scheme}://{shown}:{bound.getsockname()[1]}"
        finally:
            if renewing is not None:
                renewing.cancel()
            submissions.drain()
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """A server inside a process whose signals are somebody else's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def _bound(host: str, port: int, listen: str) -> Iterator[socket.socket]:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
            bound.listen()  # here an address in use has a message; inside uvicorn it would not
        except OSError as error:
            raise InputError(f"{OPTION} {listen} cannot be used: {error.strerror}") from error
        yield bound
