"""Arrays on the wire: numpy ↔ `Tensor` and `TokenSequences` messages.

Bytes go over as they lie in memory (little-endian, row-major): no loop over elements, one copy to
encode and none to decode. Whatever does not add up is refused with `InvalidJob`.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from counterhint.errors import InvalidJob
from counterhint.message_bounds import MOST_AXES, MOST_SEQUENCES
from counterhint.v1 import scoring_pb2

TokenIds: TypeAlias = NDArray[np.int32]
"""Token ids, int32 `[T]`."""

_DTYPES: dict[int, np.dtype[Any]] = {
    scoring_pb2.ELEMENT_TYPE_FLOAT32: np.dtype("<f4"),
    scoring_pb2.ELEMENT_TYPE_FLOAT64: np.dtype("<f8"),
    scoring_pb2.ELEMENT_TYPE_FLOAT16: np.dtype("<f2"),
    scoring_pb2.ELEMENT_TYPE_INT32: np.dtype("<i4"),
    scoring_pb2.ELEMENT_TYPE_INT64: np.dtype("<i8"),
    scoring_pb2.ELEMENT_TYPE_UINT8: np.dtype("u1"),
    scoring_pb2.ELEMENT_TYPE_UINT16: np.dtype("<u2"),
    scoring_pb2.ELEMENT_TYPE_UINT32: np.dtype("<u4"),
    scoring_pb2.ELEMENT_TYPE_BOOL: np.dtype("?"),
}
_ELEMENT_TYPES = {dtype: element_type for element_type, dtype in _DTYPES.items()}


def encode_tensor(array: NDArray[Any]) -> scoring_pb2.Tensor:
    """The message of an array.

    Raises:
        TypeError: an element type that the contract does not have.
    """
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _ELEMENT_TYPES:
        known = ", ".join(str(known) for known in _ELEMENT_TYPES)
        raise TypeError(f"arrays of {array.dtype} do not travel; these do: {known}")
    return scoring_pb2.Tensor(
        element_type=_ELEMENT_TYPES[dtype],  # type: ignore[arg-type]
        shape=array.shape,
        data=array.astype(dtype, copy=False).tobytes(),
    )


def decode_tensor(message: scoring_pb2.Tensor, name: str = "tensor") -> NDArray[Any]:
    """The array of a message: a read-only view of its bytes.

    Raises:
        InvalidJob: unknown element type, too many axes, or bytes that do not fill the shape
            exactly.
    """
    if len(message.shape) > MOST_AXES:
        raise InvalidJob(
            f"{name}: a shape of {len(message.shape)} axes, at most {MOST_AXES} are taken",
            reason="MALFORMED_TENSOR",
            details={"tensor": name, "axes": len(message.shape)},
        )
    dtype = _DTYPES.get(message.element_type)
    if dtype is None:
        raise InvalidJob(
            f"{name}: element type {message.element_type} is unknown",
            reason="MALFORMED_TENSOR",
            details={"tensor": name, "element_type": message.element_type},
        )
    expected = math.prod(message.shape) * dtype.itemsize
    if len(message.data) != expected:
        raise InvalidJob(
            f"{name}: shape {tuple(message.shape)} of {dtype} takes {expected} bytes, "
            f"but {len(message.data)} came",
            reason="MALFORMED_TENSOR",
            details={"tensor": name, "expected_bytes": expected, "bytes": len(message.data)},
        )
    if dtype == np.bool_ and message.data.strip(b"\0\1"):
        raise InvalidJob(
            f"{name}: booleans are bytes of 0 or 1",
            reason="MALFORMED_TENSOR",
            details={"tensor": name},
        )
    array = np.frombuffer(message.data, dtype=dtype)
    try:
        return array.reshape(tuple(message.shape))
    except ValueError as error:  # an axis of 0 beside axes whose product numpy cannot hold
        raise InvalidJob(
            f"{name}: shape {tuple(message.shape)} is not possible",
            reason="MALFORMED_TENSOR",
            details={"tensor": name},
        ) from error


def encode_sequences(sequences: Sequence[TokenIds]) -> scoring_pb2.TokenSequences:
    """The message of several token sequences."""
    return scoring_pb2.TokenSequences(
        lengths=[len(sequence) for sequence in sequences],
        token_ids=b"".join(np.asarray(sequence, dtype="<i4").tobytes() for sequence in sequences),
    )


def decode_sequences(
    message: scoring_pb2.TokenSequences, name: str = "sequences"
) -> tuple[TokenIds, ...]:
    """The token sequences of a message: read-only views of its bytes.

    Raises:
        InvalidJob: too many sequences, or bytes that do not fill the lengths exactly.
    """
    if (count := len(message.lengths)) > MOST_SEQUENCES:
        raise InvalidJob(
            f"{name}: there are {count}, at most {MOST_SEQUENCES} are taken",
            reason="TOO_MANY_SEQUENCES",
            details={"tensor": name, "sequences": count, "max_sequences": MOST_SEQUENCES},
        )
    ends = np.cumsum(message.lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if len(message.token_ids) != 4 * total:
        raise InvalidJob(
            f"{name}: {total} tokens take {4 * total} bytes, but {len(message.token_ids)} came",
            reason="MALFORMED_TENSOR",
            details={
                "tensor": name,
                "expected_bytes": 4 * total,
                "bytes": len(message.token_ids),
            },
        )
    ids = np.frombuffer(message.token_ids, dtype="<i4")
    stops = ends.tolist()
    return tuple(ids[start:stop] for start, stop in zip([0, *stops], stops, strict=False))
