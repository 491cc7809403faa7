"""Who calls a server: the interceptor that asks for a token, and the handlers' question.

The token comes as `authorization: Bearer …` (RFC 6750). It is looked up again for every job of a
stream, so that a revoked token ends there, too.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health
from prometheus_client import Counter

from counterhint.credentials import AUTHORIZATION, SCHEME
from counterhint.errors import Unauthenticated, error_to_status
from counterhint.logs import refusals
from counterhint.tokens import ANYONE, Caller, TokenFile

REFUSED_CALLS = Counter(
    "counterhint_refused_calls", "Calls without a token that is known, by reason", ["reason"]
)

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Authentication(grpc.aio.ServerInterceptor):
    """Lets a call through when its token is known; health checks need none.

    Args:
        tokens: the known ones; None where every caller is trusted.
    """

    def __init__(self, tokens: TokenFile | None = None) -> None:
        self._tokens = tokens

    @property
    def asks(self) -> bool:
        """Whether calls need a token."""
        return self._tokens is not None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """See `grpc.aio.ServerInterceptor`."""
        if not handler_call_details.method.startswith(f"/{health.SERVICE_NAME}/"):
            try:
                self.identify(handler_call_details.invocation_metadata)
            except Unauthenticated as error:
                return _refusal(error, handler_call_details.method)
        return await continuation(handler_call_details)

    def caller(self, context: Context) -> Caller:
        """Who makes this call.

        Raises:
            Unauthenticated: its token is not known, or no longer.
        """
        return self.identify(context.invocation_metadata() or ())

    def identify(self, headers: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Who makes a call with these headers, whose names are in lower case.

        Raises:
            Unauthenticated: there is no token among them, or none that is known.
        """
        if self._tokens is None:
            return ANYONE
        try:
            return self._known(headers)
        except Unauthenticated as error:
            REFUSED_CALLS.labels(error.reason).inc()
            raise

    def knows(self, headers: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call with these headers has a token that is known, refused or not."""
        if self._tokens is None:
            return False
        try:
            self._known(headers)
        except Unauthenticated:
            return False
        return True

    def _known(self, headers: Iterable[tuple[str, str | bytes]]) -> Caller:
        assert self._tokens is not None
        given = [value for key, value in headers if key == AUTHORIZATION]
        if not given:
            raise Unauthenticated(
                "the call has no token: give the client one, made by `counterhint tokens new`",
                reason="NO_TOKEN",
            )
        scheme, _, token = str(given[0]).partition(" ")
        known = len(given) == 1 and scheme.lower() == SCHEME.lower()
        caller = self._tokens.caller(token) if known else None
        if caller is None:
            raise Unauthenticated(
                "the call's token is not known: it was revoked, or is another server's",
                reason="UNKNOWN_TOKEN",
            )
        return caller


def _refusal(error: Unauthenticated, method: str) -> Handler:
    """Ends any kind of call before a message of it is read."""

    async def refuse(requests: object, context: Context) -> None:
        refusals.warning("%s from %s refused: %s", method, context.peer(), error.reason)
        await context.abort_with_status(error_to_status(error))

    return grpc.stream_stream_rpc_method_handler(refuse)
