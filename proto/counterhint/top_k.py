"""Top-k entries on the wire: numpy ↔ `TopK` messages, 6 bytes an entry.

The layout stands at `TopK` in `scoring.proto`. Log probs whose size is 0 or in [2^-30, 2^32) come
back bit by bit; smaller ones are within 2^-54. All of it is arithmetic on whole arrays of 32-bit
integers: no loop over entries, no 48-bit words.
"""

import numpy as np
from numpy.typing import NDArray

from counterhint.errors import EngineFailure, InvalidJob
from counterhint.tensors import TokenIds, decode_tensor, encode_tensor
from counterhint.v1 import scoring_pb2

LARGEST_ROUNDING = 1e-4
"""A log prob may be so much above 0 by rounding; it travels as 0. It is what engines promise
their numbers to be exact to, so more is an error of theirs."""
LOG_PROB_BOUND = 2.0**32
"""A log prob must be smaller in size."""

_LOW_BITS = np.uint32(3)
"""Bits of the id beside the log prob."""
_LOW_MASK = np.uint32(2**3 - 1)
_SCALE = np.float32(2.0**-96)
_UNSCALE = np.float32(2.0**96)
_NO_SIZE = np.uint32(np.float32(LOG_PROB_BOUND * 2.0**-96).view(np.uint32))
"""The bits of a size are below this."""
_MISSING = np.uint32(2**32 - 1)
_HIGH_IDS = (np.uint8, np.uint16, np.uint32)


def encode_top_k(ids: TokenIds, log_probs: NDArray[np.float32]) -> scoring_pb2.TopK:
    """The message of top-k ids (int32 `[N, k]`) and their log probs (float32 `[N, k]`).

    Where a log prob is NaN, the entry is missing and its id is not kept.

    Raises:
        EngineFailure: a log prob more than `LARGEST_ROUNDING` above 0, one of `LOG_PROB_BOUND` or
            more in size (infinity too), or an id below 0.
    """
    missing = np.isnan(log_probs)
    has_gaps = bool(missing.any())
    if has_gaps:
        ids, log_probs = np.where(missing, 0, ids), np.where(missing, np.float32(0), log_probs)
    most = log_probs.max(initial=0)
    if most > LARGEST_ROUNDING or log_probs.min(initial=0) <= -LOG_PROB_BOUND:
        wrong = (log_probs > LARGEST_ROUNDING) | (log_probs <= -LOG_PROB_BOUND)
        raise _failure(f"a log prob of {log_probs[wrong][0]:g}", "NO_LOG_PROB", wrong)
    if ids.min(initial=0) < 0:
        raise _failure(f"token id {ids.min()}", "TOKEN_ID_OUT_OF_RANGE", ids < 0)
    if most > 0:
        log_probs = np.minimum(log_probs, np.float32(0))
    words = np.abs(log_probs * _SCALE).view(np.uint32)
    words <<= _LOW_BITS
    unsigned = ids.astype(np.int32, copy=False).view(np.uint32)
    words |= unsigned & _LOW_MASK
    if has_gaps:
        words[missing] = _MISSING
    high_ids = unsigned >> _LOW_BITS
    most_high = int(high_ids.max(initial=0))
    narrowest = next(dtype for dtype in _HIGH_IDS if most_high <= np.iinfo(dtype).max)
    message = scoring_pb2.TopK()  # given to the constructor, the arrays would be parsed again
    message.words.CopyFrom(encode_tensor(words))
    message.high_ids.CopyFrom(encode_tensor(high_ids.astype(narrowest, copy=False)))
    return message


def decode_top_k(
    message: scoring_pb2.TopK, name: str = "top_k"
) -> tuple[TokenIds, NDArray[np.float32]]:
    """Ids (int32 `[N, k]`, -1 where missing) and log probs (float32 `[N, k]`, NaN where missing).

    Raises:
        InvalidJob: tensors of another kind or of two shapes, a log prob or an id out of range.
    """
    words = decode_tensor(message.words, f"{name}.words")
    high_ids = decode_tensor(message.high_ids, f"{name}.high_ids")
    if words.dtype != np.uint32 or high_ids.dtype not in _HIGH_IDS:
        raise _malformed(
            name,
            "words must be uint32 and high_ids uint8, uint16 or uint32, not "
            f"{words.dtype} and {high_ids.dtype}",
        )
    if words.ndim != 2 or words.shape != high_ids.shape:
        raise _malformed(
            name,
            f"words and high_ids must be [N, k], not {list(words.shape)} and "
            f"{list(high_ids.shape)}",
        )
    if high_ids.max(initial=0) > np.iinfo(np.int32).max >> 3:
        raise _malformed(name, "an id is beyond int32")
    ids = high_ids.astype(np.uint32)
    ids <<= _LOW_BITS
    ids |= words & _LOW_MASK
    sizes = words >> _LOW_BITS
    missing: NDArray[np.bool_] | None = None
    if sizes.max(initial=0) >= _NO_SIZE:
        missing = words == _MISSING
        if (missing != (sizes >= _NO_SIZE)).any() or high_ids[missing].any():
            raise _malformed(name, "an entry is neither a log prob nor marked as missing")
    log_probs = sizes.view(np.float32)
    log_probs *= _UNSCALE
    np.subtract(np.float32(0), log_probs, out=log_probs)  # 0 comes back as 0, not as -0
    if missing is not None:
        ids[missing] = _MISSING  # -1 as int32
        log_probs[missing] = np.nan
    return ids.view(np.int32), log_probs


def _failure(what: str, reason: str, wrong: NDArray[np.bool_]) -> EngineFailure:
    row = int(wrong.any(axis=1).argmax())
    return EngineFailure(
        f"the engine gave {what}: top_k, row {row}", reason=reason, details={"row": row}
    )


def _malformed(name: str, text: str) -> InvalidJob:
    return InvalidJob(f"{name}: {text}", reason="MALFORMED_TENSOR", details={"tensor": name})
