"""Ways to damage a message on its way."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

M = TypeVar("M", bound=Message)


def damaged(draw: st.DrawFn, message: M) -> M | None:
    """The message with bytes changed, removed or added; None when protobuf itself refuses it."""
    data = bytearray(message.SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "change":
                data[position : position + 1] = bytes([draw(st.integers(0, 255))])
            case "remove":
                del data[position : position + draw(st.integers(1, 8))]
            case "insert":
                data[position:position] = draw(st.binary(max_size=8))
            case "cut":
                del data[position:]
    try:
        return type(message).FromString(bytes(data))
    except DecodeError:
        return None
