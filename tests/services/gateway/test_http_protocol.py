"""Clients that begin a request and do not go on."""

import asyncio
import logging

import h11
import httpx
import pytest
from starlette.types import Message

from services.gateway.app import make_app
from services.gateway.state import Gateway
from services.queue.memory import MemoryQueue
from services.submission import Submissions
from tests.services.gateway.running import with_gateway


@pytest.mark.parametrize("sent", ["", "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_head_that_does_not_end_is_hung_up_on(sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.http_protocol.HEAD_SECONDS", 0.1)

    async def use(client: httpx.AsyncClient) -> None:
        url = client.base_url
        # A whole request first: between two requests, the second one's head has the same time-out.
        reader, writer = await asyncio.open_connection(url.host, url.port)
        if sent:
            writer.write(f"{sent}\r\n".encode())
            assert await reader.readuntil(b'{"status":"ok"}')
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
            await app({**scope, "query_string": b"", "root_path": ""}, receive, send)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert "cannot be answered" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]
