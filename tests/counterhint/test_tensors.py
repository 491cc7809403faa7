import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from counterhint.errors import InvalidJob
from counterhint.tensors import decode_sequences, decode_tensor, encode_sequences, encode_tensor
from counterhint.v1 import scoring_pb2
from tests.counterhint.damage import damaged
from tests.counterhint.examples import token_ids

DTYPES = [
    *(
        np.dtype(order + code)
        for order in "<>"
        for code in ("f2", "f4", "f8", "i4", "i8", "u2", "u4")
    ),
    np.dtype("u1"),
    np.dtype("?"),
]
arrays = st_numpy.arrays(
    st.sampled_from(DTYPES), st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
)
token_sequences = st.lists(st.integers(0, 6).flatmap(token_ids), max_size=5)


@given(arrays)
def test_any_array_survives_the_round_trip(array: NDArray[Any]) -> None:
    wire = encode_tensor(array).SerializeToString()
    decoded = decode_tensor(scoring_pb2.Tensor.FromString(wire))
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(decoded, array)


@given(arrays)
def test_views_that_are_not_contiguous_survive_as_well(array: NDArray[Any]) -> None:
    np.testing.assert_array_equal(decode_tensor(encode_tensor(array.T)), array.T)


def test_a_decoded_array_is_a_view_that_nobody_can_write_to() -> None:
    decoded = decode_tensor(encode_tensor(np.zeros(3, dtype=np.float32)))
    assert not decoded.flags.writeable


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "U3", "i2", "u8"])
def test_an_array_of_another_type_does_not_travel(dtype: str) -> None:
    with pytest.raises(TypeError, match="do not travel"):
        encode_tensor(np.zeros(2, dtype=dtype))


@given(array=arrays, data=st.data())
def test_a_damaged_tensor_is_refused_or_adds_up(array: NDArray[Any], data: st.DataObject) -> None:
    message = damaged(data.draw, encode_tensor(array))
    if message is None:
        return
    with contextlib.suppress(InvalidJob):
        decoded = decode_tensor(message)
        assert decoded.shape == tuple(message.shape)
        assert decoded.tobytes() == message.data


@given(
    shape=st.lists(st.integers(0, 2**32 - 1), max_size=70),
    element_type=st.integers(-5, 20),
    data=st.binary(max_size=64),
)
def test_any_shape_type_and_bytes_are_refused_or_add_up(
    shape: list[int], element_type: int, data: bytes
) -> None:
    message = scoring_pb2.Tensor(shape=shape, element_type=element_type, data=data)  # type: ignore[arg-type]
    with contextlib.suppress(InvalidJob):
        decoded = decode_tensor(message)
        assert decoded.tobytes() == data


def test_the_error_names_both_byte_counts() -> None:
    message = encode_tensor(np.zeros((2, 3), dtype=np.float32))
    message.data = message.data[:-1]
    with pytest.raises(InvalidJob, match=r"scores: shape \(2, 3\) of float32 takes 24 bytes.* 23"):
        decode_tensor(message, "scores")


def test_a_boolean_that_is_neither_0_nor_1_is_refused() -> None:
    message = encode_tensor(np.array([True, False, True]))
    message.data = b"\x01\x02\x01"
    with pytest.raises(InvalidJob, match="0 or 1"):
        decode_tensor(message)


@given(token_sequences)
def test_any_sequences_survive_the_round_trip(sequences: list[NDArray[np.int32]]) -> None:
    wire = encode_sequences(sequences).SerializeToString()
    decoded = decode_sequences(scoring_pb2.TokenSequences.FromString(wire))
    assert len(decoded) == len(sequences)
    for ours, theirs in zip(sequences, decoded, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(sequences=token_sequences, data=st.data())
def test_damaged_sequences_are_refused_or_add_up(
    sequences: list[NDArray[np.int32]], data: st.DataObject
) -> None:
    message = damaged(data.draw, encode_sequences(sequences))
    if message is None:
        return
    with contextlib.suppress(InvalidJob):
        decoded = decode_sequences(message)
        assert [len(sequence) for sequence in decoded] == list(message.lengths)
        assert b"".join(sequence.tobytes() for sequence in decoded) == message.token_ids


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1), st.binary(max_size=16))
def test_any_lengths_are_refused_or_add_up(lengths: list[int], token_bytes: bytes) -> None:
    message = scoring_pb2.TokenSequences(lengths=lengths, token_ids=token_bytes)
    with contextlib.suppress(InvalidJob):
        decoded = decode_sequences(message)
        assert [len(sequence) for sequence in decoded] == lengths


def test_the_bytes_are_little_endian_int32() -> None:
    message = encode_sequences([np.array([1, 258], dtype=">i4"), np.array([-1], dtype=np.int32)])
    assert message.token_ids == bytes([1, 0, 0, 0, 2, 1, 0, 0, 255, 255, 255, 255])
    assert list(message.lengths) == [2, 1]


@pytest.mark.parametrize("axes", [9, 65, 500, 200_000])
def test_a_shape_of_too_many_axes_is_refused_unmultiplied(axes: int) -> None:
    message = scoring_pb2.Tensor(
        element_type=scoring_pb2.ELEMENT_TYPE_INT32, shape=[2**32 - 1] * axes
    )
    with pytest.raises(InvalidJob, match=f"{axes} axes") as refusal:
        decode_tensor(message)
    assert refusal.value.reason == "MALFORMED_TENSOR"


def test_too_many_sequences_are_refused_unmade() -> None:
    many = scoring_pb2.TokenSequences(lengths=[0] * 65_537)
    with pytest.raises(InvalidJob, match="65537, at most 65536") as refusal:
        decode_sequences(many)
    assert refusal.value.reason == "TOO_MANY_SEQUENCES"
    assert len(decode_sequences(scoring_pb2.TokenSequences(lengths=[0] * 65_536))) == 65_536
