import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from counterhint.errors import EngineFailure, InvalidJob
from counterhint.tensors import TokenIds, encode_tensor
from counterhint.top_k import decode_top_k, encode_top_k
from counterhint.v1 import scoring_pb2
from tests.counterhint.damage import damaged
from tests.counterhint.examples import existing_ids

Entries = tuple[TokenIds, NDArray[np.float32]]
QWEN_VOCABULARY = 151_936
EXACT = st.just(0.0) | st.floats(-(2.0**32), -(2.0**-30), width=32, exclude_min=True)
"""Log probs that travel without rounding."""
EXACT_OR_MISSING = EXACT | st.just(np.nan)


@st.composite
def entries(draw: st.DrawFn, sizes: st.SearchStrategy[float] = EXACT_OR_MISSING) -> Entries:
    """Ids and log probs `[N, k]` as they come back: -1 beside NaN."""
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    log_probs = draw(st_numpy.arrays(np.float32, shape, elements=sizes))
    ids = draw(st_numpy.arrays(np.int32, shape, elements=existing_ids))
    return np.where(np.isnan(log_probs), np.int32(-1), ids), log_probs


def one(token: int, log_prob: float) -> Entries:
    return np.array([[token]], dtype=np.int32), np.array([[log_prob]], dtype=np.float32)


def entry_bytes(largest_id: int) -> int:
    message = encode_top_k(*one(largest_id, -1.0))
    return len(message.words.data) + len(message.high_ids.data)


@given(entries())
def test_entries_come_back_bit_by_bit(entries: Entries) -> None:
    wire = encode_top_k(*entries).SerializeToString()
    ids, log_probs = decode_top_k(scoring_pb2.TopK.FromString(wire))
    assert (ids.dtype, log_probs.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(ids, entries[0])
    np.testing.assert_array_equal(log_probs, entries[1])
    assert not np.signbit(log_probs[log_probs == 0]).any()


@given(entries(st.floats(-(2.0**-29), 0, width=32)))
def test_what_is_below_the_resolution_of_probabilities_is_rounded(entries: Entries) -> None:
    ids, log_probs = decode_top_k(encode_top_k(*entries))
    np.testing.assert_array_equal(ids, entries[0])
    np.testing.assert_allclose(log_probs, entries[1], rtol=0, atol=2.0**-54)


@pytest.mark.parametrize(
    ("largest_id", "size"),
    [
        (2**11 - 1, 5),
        (2**11, 6),
        (QWEN_VOCABULARY - 1, 6),
        (2**19 - 1, 6),
        (2**19, 8),
        (2**31 - 1, 8),
    ],
)
def test_an_entry_takes_6_bytes_for_vocabularies_of_today(largest_id: int, size: int) -> None:
    assert entry_bytes(largest_id) == size
    assert decode_top_k(encode_top_k(*one(largest_id, -1.0)))[0] == largest_id


def test_the_bytes_are_those_that_the_contract_describes() -> None:
    message = encode_top_k(*one(0b101_110, -2.0))
    size = int(np.float32(2.0 * 2.0**-96).view(np.uint32))
    assert message.words.data == (size << 3 | 0b110).to_bytes(4, "little")
    assert message.high_ids.data == bytes([0b101])


def test_any_memory_layout_can_be_encoded() -> None:
    ids = np.arange(12, dtype=">i4").reshape(3, 4)
    log_probs = -np.arange(12, dtype=">f4").reshape(4, 3)
    back = decode_top_k(encode_top_k(ids.T, log_probs))
    np.testing.assert_array_equal(back[0], ids.T)
    np.testing.assert_array_equal(back[1], log_probs)


def test_encoding_leaves_its_arrays_alone() -> None:
    ids, log_probs = np.array([[3, 4]], np.int32), np.array([[1e-7, np.nan]], np.float32)
    encode_top_k(ids, log_probs)
    np.testing.assert_array_equal(ids, [[3, 4]])
    np.testing.assert_array_equal(log_probs, np.array([[1e-7, np.nan]], np.float32))


@pytest.mark.parametrize("log_prob", [1.2e-7, 1e-8, 9e-5, -0.0])
def test_a_probability_above_1_by_rounding_is_1(log_prob: float) -> None:
    _, log_probs = decode_top_k(encode_top_k(*one(5, log_prob)))
    assert log_probs.tolist() == [[0.0]]


@pytest.mark.parametrize("log_prob", [2e-4, 1.0, np.inf, -np.inf, -(2.0**32), -3e38])
def test_what_is_no_log_prob_is_the_engines_failure(log_prob: float) -> None:
    log_probs = np.array([[0.0, np.nan], [-1.0, log_prob]], dtype=np.float32)
    with pytest.raises(EngineFailure, match=r"log prob of .*top_k, row 1") as failure:
        encode_top_k(np.zeros((2, 2), dtype=np.int32), log_probs)
    assert failure.value.reason == "NO_LOG_PROB"


def test_a_negative_id_is_the_engines_failure() -> None:
    with pytest.raises(EngineFailure, match="token id -1: top_k, row 0") as failure:
        encode_top_k(*one(-1, -1.0))
    assert failure.value.reason == "TOKEN_ID_OUT_OF_RANGE"


SIZE = int(np.float32(2.0**-96).view(np.uint32)) << 3


@pytest.mark.parametrize(
    ("words", "high_ids", "text"),
    [
        (np.array([[SIZE]], np.int32), np.zeros((1, 1), np.uint8), "not int32 and uint8"),
        (np.array([[SIZE]], np.uint32), np.zeros((1, 1), np.int32), "not uint32 and int32"),
        (np.array([SIZE], np.uint32), np.zeros(1, np.uint8), r"\[N, k\]"),
        (np.array([[SIZE]], np.uint32), np.zeros((1, 2), np.uint8), r"\[1, 1\] and \[1, 2\]"),
        (np.array([[SIZE]], np.uint32), np.full((1, 1), 2**28, np.uint32), "beyond int32"),
        (np.array([[2**32 - 2]], np.uint32), np.zeros((1, 1), np.uint8), "neither"),
        (np.array([[63 << 26]], np.uint32), np.zeros((1, 1), np.uint8), "neither"),
        (np.array([[2**32 - 1]], np.uint32), np.ones((1, 1), np.uint8), "neither"),
    ],
)
def test_what_does_not_add_up_is_refused(
    words: NDArray[np.generic], high_ids: NDArray[np.generic], text: str
) -> None:
    message = scoring_pb2.TopK(words=encode_tensor(words), high_ids=encode_tensor(high_ids))
    with pytest.raises(InvalidJob, match=text) as refusal:
        decode_top_k(message, "scores.top_k")
    assert refusal.value.reason == "MALFORMED_TENSOR"


def test_nothing_at_all_is_refused_by_name() -> None:
    with pytest.raises(InvalidJob, match=r"scores\.top_k\.words"):
        decode_top_k(scoring_pb2.TopK(), "scores.top_k")


@given(entries=entries(), data=st.data())
def test_damaged_entries_are_refused_or_are_entries(entries: Entries, data: st.DataObject) -> None:
    message = damaged(data.draw, encode_top_k(*entries))
    if message is None:
        return
    with contextlib.suppress(InvalidJob):
        ids, log_probs = decode_top_k(message)
        missing = np.isnan(log_probs)
        assert ((log_probs <= 0) & (log_probs > -(2.0**32)) | missing).all()
        assert ((ids >= 0) != missing).all()
        again = decode_top_k(encode_top_k(ids, log_probs))
        np.testing.assert_array_equal(again[0], ids)
        np.testing.assert_array_equal(again[1], log_probs)
