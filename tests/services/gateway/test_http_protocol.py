"""Clients that begin a request and do not go on."""

import asyncio
import json
import logging

import httpx
import pytest

from tests.services.gateway.running import RAW, with_gateway


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


def test_what_is_no_http_behind_a_request_ends_its_connection_without_a_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = json.dumps({"contexts": {"correct": [1]}, "responses": [{"token_ids": [2]}]})
    body = body[:-1] + ', "timeout_seconds": 0.5}'

    async def use(client: httpx.AsyncClient) -> None:
        url = client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = "POST /v1/distill/score HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(f"{head}{body}\0no http\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        await asyncio.sleep(1.0)  # until the answer would have come
        assert (await client.post("/v1/jobs", json=RAW)).status_code == 202
        writer.close()

    with caplog.at_level(logging.INFO):
        with_gateway(use)
    assert "cannot be answered" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]
