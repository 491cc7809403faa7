"""A gateway under fuzz: sends requests over sockets, and says whether the answers are right."""

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import ScoringJob
from tests.fuzz.documented_errors import documented_over_http
from tests.fuzz.grpc_target import Finding
from tests.fuzz.http_requests import HttpRequest, RequestMaker

SECONDS = 40.0
"""How long an answer may take on a busy machine."""
UNSURE_SECONDS = 3.0
"""How long it is waited for the answer to what may not be a whole request."""
LARGEST_ANSWER = 64 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class HttpTarget:
    """A gateway.

    Args:
        name: for figures and messages.
        url: where it listens.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._maker = RequestMaker(parts.netloc, 0, "")

    async def __aenter__(self) -> Self:
        _, body = await self._answer(self._maker.post("/v1/teachers", b"", method="GET"))
        (teacher,) = json.loads(body)["teachers"]
        self._maker = RequestMaker(
            f"{self._host}:{self._port}", teacher["vocab_size"], teacher["model_id"]
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    def make(self, random: Random, large: bool) -> HttpRequest:
        """An input."""
        return self._maker.large(random) if large else self._maker.make(random)

    async def send(self, request: HttpRequest) -> Sequence[str]:
        """Sends a request; gives its status and code for the figures.

        Raises:
            Finding: no answer in time, or one that is not documented.
        """
        try:
            async with asyncio.timeout(SECONDS if request.well_formed else UNSURE_SECONDS):
                status, body = await self._answer(request.data, request.pause)
        except TimeoutError:
            if not request.well_formed:
                return ["still open"]  # for it, the request has not ended
            raise Finding(f"no answer within {SECONDS} s") from None
        return [judged(status, body, request.well_formed)]

    async def check(self, job: ScoringJob, expected: NDArray[np.float32]) -> None:
        """Has a good job scored.

        Raises:
            Finding: other numbers than expected, or an error.
        """
        correct, wrong = (context.tolist() for context in job.contexts)
        body = {
            "contexts": {"correct": correct, "wrong": [wrong]},
            "responses": [{"token_ids": response.tolist()} for response in job.responses],
        }
        data = self._maker.post("/v1/distill/score", json.dumps(body).encode())
        status, answer = await self._answer(data)
        if status != 200:
            raise Finding(f"a good job was not scored: {status} {answer[:500]!r}")
        log_probs = json.loads(answer)["responses"][0]["tokens"]["log_probs"]
        scored = [*log_probs["correct"], *log_probs["wrong 1"]]
        if not np.allclose(scored, expected, atol=1e-4):
            raise Finding(f"a good job got {scored}, not {expected}")

    async def _answer(self, data: bytes, pause: float = 0.0) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 when the server hung up without one."""
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=LARGEST_ANSWER)
        # A server may answer and hang up before it has read everything.
        reading = asyncio.create_task(_read_all(reader))
        try:
            with suppress(ConnectionError):
                writer.write(data[:-1])
                await writer.drain()
                await asyncio.sleep(pause)
                writer.write(data[-1:])
            return _parsed(await reading)
        finally:
            reading.cancel()
            writer.transport.abort()


def judged(status: int, body: bytes, well_formed: bool) -> str:
    """The outcome of a request in a word.

    Raises:
        Finding: it is none that is documented.
    """
    if status == 0 or (status == 400 and body == b"Invalid HTTP request received."):
        if well_formed:
            raise Finding("the server took a good HTTP request for none")
        return "no HTTP"
    if status < 400:
        return str(status)
    if not body:  # the answer to HEAD
        return str(status)
    try:
        error = json.loads(body)["error"]
        facts = {name: error[name] for name in ("message", "type", "param", "code")}
    except (ValueError, KeyError, TypeError):
        raise Finding(f"{status} in another form: {body[:300]!r}") from None
    code = str(facts["code"])
    if (status, code) not in documented_over_http():
        raise Finding(f"{status} {code}: {facts['message'][:300]}")
    return f"{status} {code}"


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server hangs up."""
    answer = b""
    with suppress(ConnectionError):
        while part := await reader.read(1 << 20):
            answer += part
    return answer


def _parsed(answer: bytes) -> tuple[int, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return _parsed(body)
    if not head.startswith(b"HTTP/1.1 "):
        return 0, answer
    if b"transfer-encoding: chunked" in head.lower():
        body = _unchunked(body)
    elif announced := _LENGTH.search(head):  # another answer may follow
        body = body[: int(announced[1])]
    return int(head[9:12]), body


def _unchunked(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        whole, data = whole + data[:length], data[length + 2 :]
    return whole
