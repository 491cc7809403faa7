"""A stream's replies, and a client that goes while it should take them."""

import asyncio
from typing import Any, cast

import grpc
import pytest

from counterhint.v1 import scoring_pb2
from teacher_server.reply_writer import ReplyWriter


class GoingClient:
    """A stream's context as gRPC shows it when the client takes nothing, and then goes.

    A real one gets there only in some orders of what the client's end sets off.
    """

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def write(self, reply: scoring_pb2.ScoreStreamResponse) -> None:
        await self.gone.wait()
        raise grpc.aio.InternalError("the stream is closed")


def test_a_client_that_goes_after_its_time_out_is_no_error() -> None:
    async def run() -> None:
        client = GoingClient()
        replies = ReplyWriter(cast(Any, client), 0.01)
        with pytest.raises(TimeoutError):
            await replies.write(scoring_pb2.ScoreStreamResponse())
        ending = asyncio.create_task(replies.last_taken())
        client.gone.set()
        await ending

    asyncio.run(run())
