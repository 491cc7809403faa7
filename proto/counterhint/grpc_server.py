"""A grpc.aio server that no call can take away.

grpc.aio (1.85) looks handlers up by the method's name, which it decodes as UTF-8 in the loop that
takes all calls. One call whose method is no text, from outside and before any token is looked at,
ends that loop and with it the server. Here that loop gets calls of the server's own methods only,
whose names it knows; all others are answered beside it with UNIMPLEMENTED (or what an interceptor
says), and nobody reads their names.

This leans on names that are private to grpcio, so its version is held in `pyproject.toml`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from counterhint.aborted_calls import AbortedCalls

UNKNOWN_METHOD = "/unknown"
"""The name under which interceptors see every call of a method that the server does not have."""


def make_server(
    options: Sequence[tuple[str, Any]], interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> grpc.aio.Server:
    """A server like that of `grpc.aio.server`; to be called where an event loop runs.

    Args:
        options: of gRPC's core.
        interceptors: asked about each call, the first one first, behind `AbortedCalls`.
    """
    return cast(grpc.aio.Server, _Server(options, [AbortedCalls(), *interceptors]))


class _Server(_server.Server):
    def __init__(
        self,
        options: Sequence[tuple[str, Any]],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _CoreServer(self._loop, tuple(interceptors), tuple(options))


class _CoreServer(cygrpc.AioServer):  # type: ignore[misc]
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interceptors: tuple[grpc.aio.ServerInterceptor, ...],
        options: tuple[tuple[str, Any], ...],
    ) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self._own_loop = loop
        self._own_interceptors = interceptors
        self._answers: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """What grpc.aio waits for: the next call of this method, or of none that it knows."""
        if method is None:
            return self._own_loop.create_task(self._answer_unknown())
        future: asyncio.Future[Any] = super()._make_request_call_future(method)
        return future

    async def _answer_unknown(self) -> None:
        """Ends with the server, by the exception that grpc.aio takes for that."""
        while True:
            call = await self._request_call()
            answer = cygrpc._handle_rpc(
                UNKNOWN_METHOD, _NoMethods(), self._own_interceptors, call, self._own_loop, False
            )
            task = self._own_loop.create_task(
                cygrpc._schedule_rpc_coro(answer, call, self._own_loop, UNKNOWN_METHOD)
            )
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)


class _NoMethods:
    """Stands where grpc.aio looks up a method's handler."""

    def resolve_handler(self, _: grpc.HandlerCallDetails) -> None:
        return None
