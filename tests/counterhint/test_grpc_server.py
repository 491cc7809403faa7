"""A server whose loop no call ends, whatever its method is called."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from counterhint.authentication import Authentication
from counterhint.grpc_server import make_server
from counterhint.tokens import TokenFile, TokenTable, write_table
from tests.fuzz import http2_frames
from tests.fuzz.http2_frames import END_HEADERS, HEADERS, PREFACE, SETTINGS, frame, headers

BEGIN = PREFACE + frame(SETTINGS, 0, 0, b"")
NO_TEXT = headers("/a/b").replace(b"/a/b", b"/a/\xff")


@asynccontextmanager
async def serving(folder: Path, *interceptors: grpc.aio.ServerInterceptor) -> AsyncIterator[str]:
    server = make_server((), interceptors)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    socket = folder / "s.sock"
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield str(socket)
    finally:
        async with asyncio.timeout(30.0):
            await server.stop(None)


async def status_of(channel: grpc.aio.Channel, method: str) -> grpc.StatusCode:
    try:
        await channel.unary_unary(method)(b"", timeout=30.0)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


CHECK = "/grpc.health.v1.Health/Check"


def test_methods_that_are_no_text_take_nothing_away(tmp_path: Path) -> None:
    """Neither from calls under way nor from later ones, on the same connection or another."""

    async def run() -> None:
        async with (
            serving(tmp_path) as socket,
            grpc.aio.insecure_channel(f"unix://{socket}") as channel,
        ):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            calls = [frame(HEADERS, END_HEADERS, stream, NO_TEXT) for stream in range(1, 101, 2)]
            for _ in range(20):
                await http2_frames.send(socket, BEGIN + b"".join(calls), 0.05)
                assert await status_of(channel, CHECK) == grpc.StatusCode.OK
            async with grpc.aio.insecure_channel(f"unix://{socket}") as later:
                assert await status_of(later, CHECK) == grpc.StatusCode.OK
            assert not watch.done()

    asyncio.run(run())


def test_they_are_answered_like_any_unknown_method(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as socket:
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(BEGIN + frame(HEADERS, END_HEADERS, 1, NO_TEXT))
            answer = b""
            async with asyncio.timeout(30.0):
                while b"grpc-status" not in answer:
                    answer += await reader.readuntil(b"grpc-status")
                value = await reader.readexactly(3)
            assert value[-2:] == str(grpc.StatusCode.UNIMPLEMENTED.value[0]).encode()
            writer.transport.abort()

    asyncio.run(run())


@pytest.mark.parametrize("method", ["/a/b", "/grpc.health.v1.Health/Nothing", "/", "/ä/ö"])
def test_unknown_methods_are_unimplemented(tmp_path: Path, method: str) -> None:
    async def run() -> None:
        async with (
            serving(tmp_path) as socket,
            grpc.aio.insecure_channel(f"unix://{socket}") as channel,
        ):
            for _ in range(3):
                assert await status_of(channel, method) == grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(run())


def test_interceptors_are_asked_about_unknown_methods_too(tmp_path: Path) -> None:
    """Strangers are not told which methods there are."""

    async def run() -> None:
        write_table(tmp_path / "tokens", TokenTable())
        authentication = Authentication(TokenFile(tmp_path / "tokens"))
        async with (
            serving(tmp_path, authentication) as socket,
            grpc.aio.insecure_channel(f"unix://{socket}") as channel,
        ):
            assert await status_of(channel, "/a/b") == grpc.StatusCode.UNAUTHENTICATED
            assert await status_of(channel, CHECK) == grpc.StatusCode.OK

    asyncio.run(run())
