"""A gRPC server that goes on when grpc.aio's own loop breaks.

Whoever reaches the port can break that loop with one call: a method that is no UTF-8 raises in it,
before any interceptor, and grpc.aio shuts the server down for good (seen with grpcio 1.85.1). Then
the server is replaced. That is no full remedy: on its way out grpc.aio may also free what its core
still uses, which can end the process; whoever supervises it starts it again.

Needs the extra `cli`, grpcio-health-checking and grpcio-reflection.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import grpc

from counterhint.errors import InputError
from counterhint.server_security import ServerSecurity

LOOK_SECONDS = 0.1
"""How soon a break is noticed."""
OLD_CALLS_SECONDS = 600.0
"""How long calls of a broken server may go on, which they do beside its successor."""

log = logging.getLogger(__name__)


class LastingServer:
    """A server and, whenever it breaks, its successor at the same address.

    Args:
        security: whom it talks to, and how.
        listen: where it listens.
        services: names for reflection.
        register: adds the handlers to a server.

    Raises:
        InputError: the address cannot be used.
    """

    def __init__(
        self,
        security: ServerSecurity,
        listen: str,
        services: Sequence[str],
        register: Callable[[grpc.aio.Server], None],
    ) -> None:
        self._security = security
        self._services = services
        self._register = register
        self._server, self.address = self._bound(listen)
        self._broken: list[asyncio.Task[None]] = []
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes calls from now on."""
        await self._server.start()
        self._keeping = asyncio.create_task(self._keep(), name="lasting-server")

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and ends those under way after so many seconds."""
        if self._keeping is not None:
            self._keeping.cancel()
        for ending in self._broken:
            ending.cancel()
        await self._server.stop(grace)

    def _bound(self, listen: str) -> tuple[grpc.aio.Server, str]:
        server = self._security.make_server()
        self._register(server)
        return server, self._security.bind(server, listen, self._services)

    async def _keep(self) -> None:
        while True:
            try:
                if not await self._server.wait_for_termination(LOOK_SECONDS):
                    return
            except Exception as error:  # whatever it was, clients are not to notice
                log.error("the gRPC server broke and is replaced: %r", error)
                ending = asyncio.create_task(self._server.stop(OLD_CALLS_SECONDS))
                self._broken = [task for task in self._broken if not task.done()] + [ending]
                await self._replace()

    async def _replace(self) -> None:
        while True:
            try:
                self._server, _ = self._bound(self.address)
                break
            except InputError as error:  # the broken one still lets go of it
                log.warning("%s; trying again", error)
                await asyncio.sleep(LOOK_SECONDS)
        await self._server.start()
