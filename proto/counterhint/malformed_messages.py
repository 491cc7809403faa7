"""The server's interceptor for bytes that are no message: a typed refusal instead of a traceback.

grpc.aio answers what a deserializer raises with UNKNOWN, and logs a traceback for each; strangers
could fill the log with them.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from counterhint.errors import InvalidJob, error_to_status

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class MalformedMessages(grpc.aio.ServerInterceptor):
    """Refuses what cannot be parsed with `MALFORMED_MESSAGE`.

    A stream's earlier messages are answered first, as if the client had sent no more.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return _refusing(handler)


def _refusing(handler: Any) -> "Handler":
    kind = _KINDS[handler.request_streaming, handler.response_streaming]
    refusing: Handler = handler._replace(
        request_deserializer=_parser(handler.request_deserializer),
        **{kind: _after_parsing(getattr(handler, kind), handler)},
    )
    return refusing


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def _parser(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Gives the refusal in place of the message: raising here would be answered by gRPC."""

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return InvalidJob(
                f"the bytes are no message of this method: {error}", reason="MALFORMED_MESSAGE"
            )

    return parsed


def _after_parsing(behavior: Callable[..., Any], handler: Any) -> Callable[..., Any]:
    """The method, which sees parsed messages only."""

    async def unary(request: Any, context: Context) -> Any:
        if isinstance(request, InvalidJob):
            await context.abort_with_status(error_to_status(request))
        return await behavior(request, context)

    async def replies_to_unary(request: Any, context: Context) -> AsyncIterator[Any]:
        if isinstance(request, InvalidJob):
            await context.abort_with_status(error_to_status(request))
        async for reply in behavior(request, context):
            yield reply

    async def streamed(requests: AsyncIterator[Any], context: Context) -> Any:
        refused: list[InvalidJob] = []
        reply = await behavior(_until_refused(requests, refused), context)
        if refused:
            await context.abort_with_status(error_to_status(refused[0]))
        return reply

    async def replies_to_streamed(
        requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        refused: list[InvalidJob] = []
        async for reply in behavior(_until_refused(requests, refused), context):
            yield reply
        if refused:
            await context.abort_with_status(error_to_status(refused[0]))

    yields = inspect.isasyncgenfunction(behavior)
    if handler.request_streaming:
        return replies_to_streamed if yields else streamed
    return replies_to_unary if yields else unary


async def _until_refused(
    requests: AsyncIterator[Any], refused: list[InvalidJob]
) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, InvalidJob):
            refused.append(request)
            return
        yield request
