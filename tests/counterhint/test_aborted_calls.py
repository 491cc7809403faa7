"""What a server still holds of a call that it has refused."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from counterhint.errors import InvalidJob, error_to_status
from counterhint.grpc_server import make_server
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc


class Held:
    """Something that a method has at hand."""


class Refusing(scoring_pb2_grpc.ScoringServiceServicer):
    """Refuses everything, and tells when what it had at hand is gone."""

    def __init__(self) -> None:
        self.gone: asyncio.Queue[None] = asyncio.Queue()
        self._watched: list[weakref.ref[Held]] = []

    async def Score(self, request: scoring_pb2.ScoreRequest, context: Any) -> None:  # noqa: N802
        await self._refuse(Held(), context)

    async def ScoreStream(  # noqa: N802
        self, requests: AsyncIterator[scoring_pb2.ScoreStreamRequest], context: Any
    ) -> None:
        await anext(requests)
        await self._refuse(Held(), context)

    async def _refuse(self, held: Held, context: Any) -> None:
        self._watched.append(weakref.ref(held, lambda _: self.gone.put_nowait(None)))
        try:
            raise InvalidJob("no", reason="MALFORMED_TENSOR")
        except InvalidJob as error:
            await context.abort_with_status(error_to_status(error))


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_stays_of_a_refused_call(streamed: bool, tmp_path: Path) -> None:
    """Without the garbage collector, which would come too late."""

    async def run() -> None:
        service = Refusing()
        server = make_server(())
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(service, server)
        address = f"unix://{tmp_path / 's.sock'}"
        server.add_insecure_port(address)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = scoring_pb2_grpc.ScoringServiceStub(channel)
                for _ in range(3):
                    if streamed:
                        call = stub.ScoreStream(iter([scoring_pb2.ScoreStreamRequest()]))
                    else:
                        call = stub.Score(scoring_pb2.ScoreRequest())
                    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
                    async with asyncio.timeout(30.0):
                        await service.gone.get()
        finally:
            await server.stop(None)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()
