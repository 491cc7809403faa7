"""HTTP/1.1 of uvicorn, with what it lacks.

It waits for ever for the head of a request: here that has a time-out. And it answers what is no
HTTP by 400 even in the midst of another answer, which raises.
"""

import asyncio
from typing import Any

import h11
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""How long request line and headers may take to arrive, from the connection's first moment on."""


class TimedHeads(H11Protocol):
    """Hangs up on a client whose request does not begin in time, or not to its head's end.

    Between two requests of one connection uvicorn's own `timeout_keep_alive` counts.
    """

    _timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_timer()
        elif self._timer is None:
            self._expect_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    @override
    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun: only the connection can still say that something is wrong
            self.transport.close()

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
