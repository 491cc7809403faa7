"""JSON bodies, taken strictly: what parsers disagree about is refused and not guessed.

Refused are names that occur twice in an object, `NaN` and `Infinity`, lone surrogates, bytes that
are no UTF-8, objects of very many names, and nesting beyond a bound, which is checked before
anything is parsed.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.routing import APIRoute

from services.gateway.errors import HttpError
from services.gateway.state import gateway_of

# A text without an end is matched to the end: looked for again at every quote in it, it would take
# time that grows with its square, and hold up every other request meanwhile.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
BODY_SECONDS = 60.0
"""How long a body may take to arrive."""
MOST_NAMES = 256
"""Names of one object: more than any has here, and each that is not known would be an error."""
_LARGE_BYTES = 64 * 1024
"""A larger body is parsed beside the event loop."""


class JsonRoute(APIRoute):
    """A route whose body is JSON of the strict kind, and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `fastapi.routing.APIRoute`."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            # FastAPI reads a body before it asks who sent it; strangers' bodies are not read.
            gateway_of(request).authentication.identify(request.headers.items())
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise HttpError(
                    415,
                    "UNSUPPORTED_MEDIA_TYPE",
                    f"the body is {media_type or 'of no named type'}: send "
                    "Content-Type: application/json",
                )
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    self._body = await self._bounded()
            except TimeoutError as error:
                raise HttpError(
                    408, "BODY_TOO_SLOW", f"the body did not arrive within {BODY_SECONDS:g} s"
                ) from error
        return self._body

    async def _bounded(self) -> bytes:
        """The body; what is announced or turns out to be too large is not read to its end."""
        most = gateway_of(self).limits.body_bytes
        announced = self.headers.get("content-length", "0")
        size = int(announced) if announced.isdecimal() else 0
        parts: list[bytes] = []
        if size <= most:
            size = 0
            async for part in self.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    break
        if size > most:
            raise HttpError(
                413,
                "BODY_TOO_LARGE",
                f"the body is larger than {most} bytes: send fewer responses at a time",
            )
        return b"".join(parts)

    async def json(self) -> Any:
        body, depth = await self.body(), gateway_of(self).limits.json_depth
        if len(body) > _LARGE_BYTES:
            return await asyncio.to_thread(parse_strictly, body, depth)
        return parse_strictly(body, depth)


def parse_strictly(body: bytes, max_depth: int) -> Any:
    """The value of a JSON text.

    Raises:
        HttpError: 400, the text is none that is taken here.
    """
    if (depth := _depth(body)) > max_depth:
        raise _refusal(f"arrays and objects are nested {depth} deep, at most {max_depth} are taken")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE_ESCAPE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _refusal("a text holds half of a surrogate pair") from error
    except UnicodeDecodeError as error:
        raise _refusal(f"byte {error.start} is no UTF-8") from error
    except ValueError as error:
        raise _refusal(str(error)) from error
    return value


def _depth(body: bytes) -> int:
    brackets = np.frombuffer(_STRING.sub(b"", body).translate(None, _NO_BRACKETS), dtype=np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.cumsum(np.where(opening, 1, -1)).max(initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_NAMES:
        raise ValueError(f"an object has {len(pairs)} names, at most {MOST_NAMES} are taken")
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice!r} occurs twice in an object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON: leave it out, or send null where that is taken")


def _refusal(why: str) -> HttpError:
    return HttpError(400, "INVALID_JSON", f"the body cannot be taken as JSON: {why}")
