"""Replies of one stream, written one at a time for as long as the client takes them."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc

from counterhint.v1 import scoring_pb2


class ReplyWriter:
    """Writes to one stream.

    Args:
        context: the stream's.
        seconds: how long the client may take for one reply.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], seconds: float) -> None:
        self._context = context
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._untaken: asyncio.Future[None] | None = None

    async def write(self, reply: scoring_pb2.ScoreStreamResponse) -> None:
        """Returns once the reply is on its way, or dropped because an earlier one was not taken.

        Raises:
            TimeoutError: the client does not take it.
        """
        async with self._turn:
            if self._untaken is not None:
                return
            # Not cancelled at the time-out: gRPC cannot take back what it has begun to send.
            sending = asyncio.ensure_future(self._context.write(reply))
            try:
                await asyncio.wait_for(asyncio.shield(sending), self._seconds)
            except TimeoutError:
                self._untaken = sending
                raise
            except grpc.aio.InternalError:
                return  # the client has gone; the call ends by that
            except asyncio.CancelledError:
                sending.cancel()
                raise

    async def last_taken(self) -> None:
        """Waits until the client has taken what was begun, or has gone: before no call can end."""
        if self._untaken is not None:
            with suppress(grpc.aio.InternalError):  # the client has gone; the call ends by that
                await self._untaken
