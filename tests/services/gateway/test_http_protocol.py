"""Clients that begin a request and do not go on."""

import asyncio

import httpx
import pytest

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
