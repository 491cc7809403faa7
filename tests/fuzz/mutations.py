"""Damage to protobuf messages: by field, with values that tend to break decoders, and by byte."""

from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

TEXTS = (
    "",
    "\0",
    "a\0b",
    "/",
    "../../../../etc/passwd",
    "run/other",
    ":work",
    ":",
    "{counterhint}:total",
    "}{",
    "a\nb\r\nX-Header: 1",
    "\x1b[2J\x07\x7f",
    "%00%2e%2e",
    "\ufeff\u202e\U0010ffff",
    "*?[]{}$`'\"\\;|&",
    "-1",
    "nan",
    "é" * 200,
)
"""What keys, paths, logs and headers might stumble over."""
LONG_TEXTS = (1_000, 5_000, 70_000)
"""Lengths of long texts, in characters."""
FLOATS = (0.0, -0.0, -1.0, 1e-320, 1e-9, 1.0, 1e9, 1e308, float("inf"), -float("inf"), float("nan"))

_INTEGERS: dict[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def odd_text(random: Random) -> str:
    """A text that is unusual in content or length."""
    match random.randrange(8):
        case 0:
            return random.choice(("x", "\0", "é")) * random.choice(LONG_TEXTS)
        case 1:
            return "".join(chr(random.randrange(1, 0xD800)) for _ in range(random.randrange(1, 30)))
        case _:
            return random.choice(TEXTS)


def odd_bytes(random: Random, data: bytes) -> bytes:
    """Bytes of another length or content than these."""
    match random.randrange(6):
        case 0:
            return b""
        case 1:
            return data[: random.randrange(len(data) + 1)]
        case 2:
            return data + random.randbytes(random.randrange(1, 9))
        case 3:
            return random.randbytes(len(data))
        case 4:
            return data * random.choice((2, 3, 50))
        case _:
            position = random.randrange(len(data) + 1)
            return data[:position] + random.randbytes(4) + data[position + 4 :]


def _odd_scalar(random: Random, field: FieldDescriptor, value: Any) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not value
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 2**31 - 1, -1))
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return random.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return odd_bytes(random, value) if isinstance(value, bytes) else odd_text(random)
    low, high = _INTEGERS[kind]
    near = (0, 1, value - 1, value + 1, 2 * value, low, high, random.randrange(low, high))
    return min(max(random.choice(near), low), high)


def _mutate_repeated(random: Random, field: FieldDescriptor, values: Any) -> None:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        if values and random.random() < 0.5:
            del values[random.randrange(len(values))]
        else:
            values.add()
        return
    before = list(values)
    position = random.randrange(len(before) + 1)
    match random.randrange(6):
        case 0:
            before = []
        case 1:
            before[position : position + 1] = []
        case 2:
            before.insert(position, _odd_scalar(random, field, before[0] if before else 0))
        case 3:
            before = before * random.choice((2, 40, 700))
        case 4:
            before += [random.choice((0, 1, 2**32 - 1))] * random.choice((1, 40, 3_000))
        case _ if before:
            position %= len(before)
            before[position] = _odd_scalar(random, field, before[position])
    del values[:]
    try:
        values.extend(before)
    except (TypeError, ValueError):  # a list of another kind than numbers
        values.extend([odd_text(random)])


def _places(message: Message) -> list[tuple[Message, FieldDescriptor]]:
    """Every field of a message and of those inside it, absent ones too."""
    found = []
    for field in message.DESCRIPTOR.fields:
        found.append((message, field))
        single = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and not field.is_repeated
        if single and message.HasField(field.name):
            found += _places(getattr(message, field.name))
    return found


def mutate_fields(random: Random, message: Message, times: int) -> None:
    """Changes fields of a message in place to values that do not fit the others."""
    for _ in range(times):
        holder, field = random.choice(_places(message))
        value = getattr(holder, field.name)
        if random.random() < 0.1:
            holder.ClearField(field.name)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            value[odd_text(random)] = odd_text(random)
        elif field.is_repeated:
            _mutate_repeated(random, field, value)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            value.SetInParent()
        else:
            setattr(holder, field.name, _odd_scalar(random, field, value))


def _flip(random: Random, data: bytearray) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _replace(random: Random, data: bytearray) -> None:
    data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF))


def _remove(random: Random, data: bytearray) -> None:
    position = random.randrange(len(data))
    del data[position : position + random.randrange(1, 9)]


def _repeat(random: Random, data: bytearray) -> None:
    start = random.randrange(len(data))
    data[start:start] = data[start : start + random.randrange(1, 40)] * random.choice((1, 2, 100))


def _huge_varint(random: Random, data: bytearray) -> None:
    position = random.randrange(len(data))
    data[position : position + 1] = random.choice(
        (b"\xff" * 9 + b"\x01", b"\xff" * 4 + b"\x0f", b"\xff" * 11, b"\x80" * 10 + b"\x00")
    )


def _cut(random: Random, data: bytearray) -> None:
    del data[random.randrange(len(data)) :]


def _unknown_field(random: Random, data: bytearray) -> None:
    tag = random.randrange(1, 2**29) << 3 | random.randrange(8)
    while tag > 0x7F:
        data.append(tag & 0x7F | 0x80)
        tag >>= 7
    data.append(tag)
    data += random.randbytes(random.randrange(12))


def _nested_groups(random: Random, data: bytearray) -> None:
    data += b"\x0b" * random.choice((50, 200, 5_000))


_BYTE_MUTATIONS: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_flip, _replace, _remove, _repeat, _huge_varint, _cut, _unknown_field, _nested_groups),
)


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """The bytes with one to four of them, or of their stretches, damaged."""
    damaged = bytearray(data)
    for _ in range(random.randrange(1, 5)):
        random.choice(_BYTE_MUTATIONS)(random, damaged if damaged else bytearray(b"\0"))
    return bytes(damaged)
