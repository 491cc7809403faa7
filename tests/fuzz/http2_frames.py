"""Connections that speak HTTP/2 wrongly: frames by hand (RFC 9113), headers unpacked (RFC 7541)."""

import asyncio
import struct
from random import Random

from tests.fuzz.mutations import mutate_bytes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame; `length` may say something else than the payload has."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(method: str | bytes, *further: tuple[str, str]) -> bytes:
    """A header block of literals without indexing: of texts below 127 bytes, without Huffman."""
    fields: list[tuple[str, str | bytes]] = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *further,
    ]
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return bytes([len(data)]) + data


def grpc_message(payload: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A message as gRPC frames it."""
    size = len(payload) if length is None else length
    return bytes([flag]) + struct.pack(">I", size) + payload


def garbage(random: Random, method: str, message: bytes) -> bytes:
    """What a client sends that means no good, as a whole connection."""
    begin = PREFACE + frame(SETTINGS, 0, 0, b"")
    call = begin + frame(HEADERS, END_HEADERS, 1, headers(method))
    match random.randrange(13):
        case 0:
            return random.randbytes(random.randrange(1, 2_000))
        case 1:
            return (
                b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * random.randrange(2_000) + b"\r\n"
            )
        case 2:
            data = frame(DATA, END_STREAM, 1, grpc_message(message))
            return call + mutate_bytes(random, data)
        case 3:  # the message ends early
            return call + frame(DATA, END_STREAM, 1, grpc_message(message, length=2**32 - 1))
        case 4:  # compressed, it says
            return call + frame(DATA, END_STREAM, 1, grpc_message(message, flag=1))
        case 5:  # the frame ends early, or is larger than allowed
            return call + frame(DATA, 0, 1, message, length=random.choice((1, 16_385, 2**24 - 1)))
        case 6:  # streams that are opened and reset at once
            opened = range(1, 401, 2)
            block = headers(method)
            return begin + b"".join(
                frame(HEADERS, END_HEADERS, stream, block)
                + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
                for stream in opened
            )
        case 7:
            return begin + frame(random.choice((PING, SETTINGS)), 0, 0, bytes(12)) * 200
        case 8:  # headers that never end
            endless = frame(CONTINUATION, 0, 1, headers("/x", ("a", "b" * 100)))
            return begin + frame(HEADERS, 0, 1, headers(method)) + endless * 500
        case 9:
            window = struct.pack(">I", random.choice((0, 2**31 - 1)))
            return call + frame(WINDOW_UPDATE, 0, random.choice((0, 1)), window) * 3
        case 10:  # a reference into an empty header table, or an integer without an end
            block = random.choice((b"\xff\xff\xff\xff\xff\xff\x7f", b"\xbe", b"\x7f\xff", b"\x3f"))
            return begin + frame(HEADERS, END_HEADERS, 1, headers(method) + block)
        case 11:  # methods that are no text
            path = method.encode()
            calls = [(mutate_bytes(random, path) + b"\xff")[-126:] for _ in range(20)]
            return begin + b"".join(
                frame(HEADERS, END_HEADERS, 2 * index + 1, headers(call))
                for index, call in enumerate(calls)
            )
        case _:
            kind, stream = random.randrange(12), random.choice((0, 1, 2, 2**31 - 1))
            return call + frame(kind, random.randrange(256), stream, random.randbytes(20))


async def send(path: str, data: bytes, seconds: float) -> str:
    """Sends bytes to a unix socket, reads for so long, and goes; gives how the server took it."""
    reader, writer = await asyncio.open_unix_connection(path)
    outcome = "still open"
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(seconds):
            while await reader.read(65_536):
                pass
            outcome = "closed"
    except TimeoutError:
        pass
    except ConnectionError:
        outcome = "closed"
    finally:
        writer.transport.abort()
    return outcome
