"""What every request passes first, and every response last: its id, its bounds, its headers."""

import logging
import time
from collections import Counter

from h11 import LocalProtocolError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterhint.credentials import AUTHORIZATION
from counterhint.errors import CounterhintError, Overloaded, Unavailable
from counterhint.request_context import REQUEST_ID, TRACEPARENT, accept, working_for
from services import metrics
from services.gateway.errors import HttpError, error_response, internal_error
from services.gateway.state import Gateway

log = logging.getLogger(__name__)

_BUSY_RETRY = 1.0
"""Seconds after which a request may find room."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Gate:
    """Gives a request its id, refuses what must not reach a route, and ends faults in the one form.

    Args:
        app: what comes after.
        gateway: whose hosts and bounds count.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._under_way: Counter[str] = Counter()
        """Requests by caller."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = accept(headers.get(REQUEST_ID, ""), headers.get(TRACEPARENT, ""))
        request_id = trace.request_id
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status = time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    added[name] = value
                added.setdefault("Cache-Control", "no-store")
            await send(message)

        caller = self._caller(scope, headers)
        self._under_way[caller] += 1
        try:
            refusal = self._refusal(scope, headers, caller)
            if refusal is not None:
                response = error_response(refusal, request_id)
                await response(scope, receive, send_with_headers)
            else:
                with working_for("", "", trace):
                    await self._app(scope, receive, send_with_headers)
        except LocalProtocolError as error:
            # What the client sent behind the request was no HTTP, and its connection is over.
            log.info("request %s cannot be answered: %s", request_id, error)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:  # half a response is out: only the connection can still say that it failed
                raise
            response = error_response(internal_error(), request_id)
            await response(scope, receive, send_with_headers)
        finally:
            self._under_way[caller] -= 1
            if not self._under_way[caller]:
                del self._under_way[caller]
            # The routes are few; what clients ask for is not.
            route = getattr(scope.get("route"), "path", "none")
            metrics.REQUESTS.labels(route, status).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(time.monotonic() - begun)
            log.debug(
                "%s %s: %d in %.3f s (request %s)",
                *(scope["method"], scope["path"], status, time.monotonic() - begun, request_id),
            )

    def _caller(self, scope: Scope, headers: Headers) -> str:
        """Whom a request counts for: invented tokens do not make one caller many."""
        if self._gateway.authentication.knows(headers.items()):
            return headers[AUTHORIZATION]
        return str(scope["client"][0])

    def _refusal(
        self, scope: Scope, headers: Headers, caller: str
    ) -> HttpError | CounterhintError | None:
        hosts = self._gateway.hosts
        host = _without_port(headers.get("host", ""))
        if hosts is not None and host not in hosts:
            return HttpError(
                421,
                "UNKNOWN_HOST",
                f"the Host header names {host or 'nothing'!r}, and this gateway is "
                f"{', '.join(sorted(hosts))}: use one of these names",
            )
        if scope["path"] in _PROBES:
            return None
        limits = self._gateway.limits
        if self._under_way[caller] > limits.caller_requests:
            return Overloaded(
                f"{limits.caller_requests} requests of this token or address are under way: wait "
                "for one to end, or queue jobs with POST /v1/jobs",
                reason="CALLER_BUSY",
                details={"max_caller_requests": limits.caller_requests},
                retry_after=_BUSY_RETRY,
            )
        if self._under_way.total() > limits.requests:
            return Unavailable(
                f"{limits.requests} requests are under way: come back later",
                reason="BUSY",
                retry_after=_BUSY_RETRY,
            )
        return None


_PROBES = ("/health", "/ready", "/metrics")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()
