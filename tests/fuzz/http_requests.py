"""The HTTP requests of a campaign: good ones, and what is wrong with the others."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.fuzz.mutations import TEXTS, mutate_bytes, odd_text

NUMBERS: tuple[Any, ...] = (
    *(-1, 0, 1, 3.5, 2**31, 2**63, 10**400, -(10**30), 1e308, True, None),
    *(float("nan"), float("inf")),
)
"""What fields of numbers might stumble over; Python writes the last two as no JSON."""
PATHS = (
    *("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/models"),
    *("/v1/teachers", "/v1/runs", "/v1/runs/run", "/v1/training-runs", "/v1/runs/run/rollouts"),
    *("/v1/jobs/none", "/v1/distill/score", "/v1/completions", "/v1/jobs"),
)
ODD_PATHS = (
    "/static/../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/etc/passwd",
    "/static/x/..%2f..%2fpyproject.toml",
    "/static//etc/passwd",
    "/v1/runs/..%2f..%2fetc",
    "/v1/runs/%2e%2e/rollouts",
    "/v1/training-runs/..%2f..",
    "/v1/training-runs/%00",
    "/v1/jobs/%ff%fe",
    "/v1/jobs/" + "x" * 7_000,
    "//v1//runs",
    "/v1/runs/run/rollouts?limit=-1&offset=99999999999999999999",
    "/v1/runs/run/rollouts?step=nan&limit=" + "9" * 500,
    "/%",
    "*",
    "http://other.host/v1/runs",
)
HEADERS = (
    "Host: other.host",
    "Host: 127.0.0.1:0",
    "Host: ",
    "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-16",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Encoding: gzip",
    "Accept: application/x-ndjson",
    "Accept: " + "a/b," * 1_000,
    "Authorization: Bearer nonsense",
    "Expect: 100-continue",
    "Expect: something",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "X-Request-Id: ../\x01\x7f",
    "X-Request-Id: " + "x" * 5_000,
    "traceparent: 00-zz",
    "Range: bytes=0-99999999999999999999",
    "If-None-Match: " + '"' * 300,
    "Cookie: " + "a=b; " * 300,
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Content-Length: 5, 6",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    ": empty",
    "no colon",
    "Header\0: x",
)


@dataclass(frozen=True)
class HttpRequest:
    """What goes over one connection."""

    kind: str
    """How it was made, for the figures."""
    data: bytes
    """All of it."""
    well_formed: bool = True
    """Whether it is HTTP, so that the answer must be the gateway's and not its server's."""
    pause: float = 0.0
    """Seconds for which the last byte is held back."""


class RequestMaker:
    """Makes requests for a gateway.

    Args:
        host: what its `Host` header must be.
        vocab_size: of its teacher.
        model: the teacher's name.
    """

    def __init__(self, host: str, vocab_size: int, model: str) -> None:
        self._host = host
        self._vocab_size = vocab_size
        self._model = model
        self._kinds: dict[str, tuple[int, Callable[[Random], HttpRequest]]] = {
            "valid": (8, self._valid),
            "values": (35, self._values),
            "json": (20, self._json),
            "bytes": (12, self._bytes),
            "path": (10, self._path),
            "headers": (10, self._headers),
            "chunks": (4, self._chunks),
            "wire": (8, self._wire),
            "slow": (1, self._slow),
        }

    def make(self, random: Random) -> HttpRequest:
        """The next request."""
        shares = [share for share, _ in self._kinds.values()]
        ((_, make),) = random.choices(list(self._kinds.values()), shares)
        return make(random)

    def large(self, random: Random) -> HttpRequest:
        """A request of many megabytes."""
        match random.randrange(5):
            case 0:
                body = b"[" * 20_000_000
            case 1:
                body = json.dumps({"responses": ["x" * 14_000_000]}).encode()
            case 2:
                body = b'{"a": ' + b"9" * 10_000_000 + b"}"
            case 3:
                body = json.dumps({**self._score(random), "responses": ["w5"] * 200_000}).encode()
            case _:
                contexts = {"correct": [5] * 2_000_000}
                body = json.dumps({"contexts": contexts, "responses": ["w5"]}).encode()
        return HttpRequest("large", self.post("/v1/distill/score", body))

    def post(self, path: str, body: bytes, *further: str, method: str = "POST") -> bytes:
        """A request with a JSON body, as bytes."""
        lines = [f"{method} {path} HTTP/1.1"]
        given = "\r\n".join(further).lower()
        for name, value in (
            ("Host", self._host),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ):
            if f"{name.lower()}:" not in given:
                lines.append(f"{name}: {value}")
        return "\r\n".join([*lines, *further, "", ""]).encode("latin-1", "replace") + body

    def _ids(self, random: Random, longest: int) -> list[int]:
        return [random.randrange(self._vocab_size) for _ in range(random.randrange(1, longest))]

    def _score(self, random: Random) -> dict[str, Any]:
        responses: list[Any] = [{"token_ids": self._ids(random, 6)}]
        if random.random() < 0.3:
            responses = ["w5 w6 w7", {"text": "w8 w9"}]
        job: dict[str, Any] = {
            "contexts": {"correct": self._ids(random, 8), "wrong": [self._ids(random, 8)]},
            "responses": responses,
            "timeout_seconds": 20,
        }
        if random.random() < 0.4:
            del job["contexts"]
            job |= {
                "problem": "w4 w5",
                "correct_hint": {"hint": "w6", "answer": "w7"},
                "wrong_hints": [{"hint": "w8", "answer": "w9"}],
            }
        optional = {
            "top_k": 3,
            "entropy": True,
            "gate": {"tau": 0.02},
            "priority": 1,
            "run": f"run-{random.randrange(20)}",
        }
        return job | {name: optional[name] for name in optional if random.random() < 0.3}

    def _raw(self, random: Random) -> dict[str, Any]:
        responses = [self._ids(random, 6) for _ in range(2)]
        job: dict[str, Any] = {
            "contexts": [self._ids(random, 8), self._ids(random, 8)],
            "responses": responses,
            "pairs": [[0, 0], [1, 0], [0, 1]],
            "timeout_seconds": 20,
        }
        optional = {
            "outputs": {"sampled": True, "top_k": 3, "entropy": True},
            "token_ids": [[[4, 5] for _ in ids] for ids in responses],
            "priority": 1,
            "run": f"run-{random.randrange(20)}",
        }
        return job | {name: optional[name] for name in optional if random.random() < 0.3}

    def _job(self, random: Random) -> tuple[str, dict[str, Any]]:
        """A route that takes JSON, and a good body for it."""
        if random.random() < 0.3:
            prompt = random.choice(("w4 w5", [4, 5, 6], [[4, 5], [6]]))
            body = {"model": self._model, "prompt": prompt, "echo": True, "logprobs": 2}
            return "/v1/completions", body | {"max_tokens": random.choice((0, 1))}
        if random.random() < 0.2:
            return "/v1/jobs", self._raw(random)
        return random.choice(("/v1/jobs", "/v1/distill/score")), self._score(random)

    def _valid(self, random: Random) -> HttpRequest:
        path, job = self._job(random)
        accept = ("Accept: application/x-ndjson",) if random.random() < 0.2 else ()
        return HttpRequest("valid", self.post(path, json.dumps(job).encode(), *accept))

    def _values(self, random: Random) -> HttpRequest:
        path, job = self._job(random)
        for _ in range(random.choice((1, 1, 2, 4))):
            _spoil(random, job)
        return HttpRequest("values", self.post(path, json.dumps(job).encode()))

    def _json(self, random: Random) -> HttpRequest:
        path, job = self._job(random)
        text = json.dumps(job)
        body = random.choice(
            (
                *("", "null", "[]", '"x"', "0", "{", "}", "[" * 5_000, '{"a":' * 2_000),
                text[: random.randrange(len(text))],
                text + random.choice(("x", "\0", "{}", ",")),
                text.replace('"responses"', '"responses": [], "responses"', 1),
                text.replace("20", "1" * 5_000, 1),
                text.replace("20", "1e999", 1),
                text.replace("w5", "\\ud800", 1),
                text.replace("w5", "\\u0000", 1),
                "\ufeff" + text,
                text.replace(":", "=", 1),
                text.replace('"', "'"),
            )
        )
        encoding = random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32"))
        return HttpRequest("json", self.post(path, body.encode(encoding)))

    def _bytes(self, random: Random) -> HttpRequest:
        path, job = self._job(random)
        return HttpRequest("bytes", self.post(path, mutate_bytes(random, json.dumps(job).encode())))

    def _path(self, random: Random) -> HttpRequest:
        method = random.choice(("GET", "GET", "GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS"))
        path = random.choice((*PATHS, *ODD_PATHS))
        well_formed = path.startswith("/") and method != "HEAD"
        return HttpRequest("path", self.post(path, b"", method=method), well_formed)

    def _headers(self, random: Random) -> HttpRequest:
        path, job = self._job(random)
        chosen = random.sample(HEADERS, random.choice((1, 1, 2, 3)))
        data = self.post(path, json.dumps(job).encode(), *chosen)
        return HttpRequest("headers", data, well_formed=False)

    def _chunks(self, random: Random) -> HttpRequest:
        path, job = self._job(random)
        body = json.dumps(job).encode()
        size = random.choice((1, 7, 100_000))
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        whole = random.random() < 0.4
        if not whole:
            data = mutate_bytes(random, data)
        head = self.post(path, b"", "Transfer-Encoding: chunked").replace(
            b"Content-Length: 0\r\n", b""
        )
        return HttpRequest("chunks", head + data, well_formed=whole)

    def _wire(self, random: Random) -> HttpRequest:
        data = self._valid(random).data
        data = random.choice(
            (
                mutate_bytes(random, data),
                random.randbytes(200),
                b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
                b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(40),
                data + data,
                b"\r\n" * 5_000,
            )
        )
        return HttpRequest("wire", data, well_formed=False)

    def _slow(self, random: Random) -> HttpRequest:
        return HttpRequest("slow", self._valid(random).data, pause=0.5)


def _spoil(random: Random, value: Any) -> None:
    """Changes something inside a JSON object or array."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = random.choice(keys)
    inner = value[key]
    if isinstance(inner, dict | list) and inner and random.random() < 0.6:
        _spoil(random, inner)
        return
    match random.randrange(6):
        case 0:
            del value[key]
        case 1:
            value[key] = odd_text(random)
        case 2:
            value[key] = random.choice(([], {}, [[]], [None], {"hint": 5}, [{}] * 300))
        case 3 if isinstance(value, dict):
            value[random.choice(TEXTS)] = inner
        case 4 if isinstance(inner, list):
            value[key] = inner * random.choice((2, 30, 2_000))
        case _:
            value[key] = random.choice(NUMBERS)
