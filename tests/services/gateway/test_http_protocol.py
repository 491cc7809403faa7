"""Clients that begin a request and do not go on."""

import asyncio
import logging

import h11
import httpx
import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from services.gateway.app import make_app
from services.gateway.http_protocol import TimedHeads
from services.gateway.state import Gateway
from services.queue.memory import MemoryQueue
from services.submission import Submissions
from tests.services.gateway.running import with_gateway


@pytest.mark.parametrize("sent", ["", "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_head_that_does_not_end_is_hung_up_on(sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hurry() -> None:
        monkeypatch.setattr("services.gateway.http_protocol.HEAD_SECONDS", 0.1)

    async def use(client: httpx.AsyncClient) -> None:
        url = client.base_url
        # A whole request first: between two requests, the second one's head has the same time-out.
        if not sent:
            hurry()
        reader, writer = await asyncio.open_connection(url.host, url.port)
        if sent:
            writer.write(f"{sent}\r\n".encode())
            assert await reader.readuntil(b'{"status":"ok"}')
            hurry()
            writer.write(sent.encode())
        assert await reader.read() == b""
        writer.close()

    with_gateway(use)


def test_an_answer_to_a_connection_that_broke_http_is_no_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """uvicorn has answered the break by 400 and closes, while a route's answer is on its way."""
    broken = h11.Connection(h11.SERVER)
    broken.receive_data(b"\0 is no HTTP\r\n\r\n")
    with pytest.raises(h11.RemoteProtocolError):
        broken.next_event()
    headers = [("Connection", "close"), ("Content-Length", "0")]
    broken.send(h11.Response(status_code=400, headers=headers))
    broken.send(h11.EndOfMessage())

    async def send(message: Message) -> None:
        broken.send(h11.Response(status_code=message["status"], headers=[]))

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def run() -> None:
        async with MemoryQueue() as queue:
            app = make_app(Gateway(queue, Submissions(queue)))
            scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
            client = ("127.0.0.1", 1)
            await app(
                {**scope, "query_string": b"", "root_path": "", "client": client}, receive, send
            )

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert "cannot be answered" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_who_breaks_http_in_the_midst_of_an_answer_is_hung_up_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In place of uvicorn's 400, for which the answer that has begun leaves no room."""

    async def begins(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async def run() -> None:
        config = uvicorn.Config(begins, port=0, http=TimedHeads, lifespan="off", log_config=None)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        (listening,) = server.servers
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await reader.readuntil(b"begun")
        writer.write(b"no chunk\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        await server.shutdown()

    asyncio.run(run())
    assert not [record for record in caplog.records if record.exc_info]
