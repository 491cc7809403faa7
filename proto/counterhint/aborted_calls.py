"""The server's interceptor that lets go of calls which end with an error status.

grpc.aio keeps the exception of `context.abort` with the call, and the exception's traceback keeps
the frames of the method with its request, which keep the call: a cycle that only the garbage
collector ends. A refused message of 64 MiB, parsed into several times its size, would stay until
then; with hundreds of thousands of objects from the imports, that may be hours.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class AbortedCalls(grpc.aio.ServerInterceptor):
    """Drops the traceback of an abort on its way to gRPC; to be the first interceptor.

    Methods that yield their replies are left as they are.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """See `grpc.aio.ServerInterceptor`."""
        handler: Any = await continuation(handler_call_details)
        for kind in ("unary_unary", "stream_unary", "unary_stream", "stream_stream"):
            behavior = getattr(handler, kind, None)
            if inspect.iscoroutinefunction(behavior):
                letting_go: Handler = handler._replace(**{kind: _letting_go(behavior)})
                return letting_go
        return handler  # type: ignore[no-any-return]


def _letting_go(behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await behavior(request, context)
        except grpc.aio.AbortError as abort:
            del request, context  # this frame is the next traceback's first
            abort.__context__ = None  # why it was refused, with frames of its own
            raise abort.with_traceback(None) from None

    return call
