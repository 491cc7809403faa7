"""A response cut where its tokens meet: each token's text, and its bytes in the whole.

A character of several bytes may be split over tokens. Then the token that completes it carries it,
and the ones before have an empty text; the byte offsets say what each of them holds.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_FIRST_SURROGATE, _LAST_SURROGATE = 0xDC80, 0xDCFF
"""How Python's `surrogateescape` spells bytes that are no UTF-8."""


@dataclass(frozen=True, slots=True)
class TokenPieces:
    """A response and its tokens."""

    text: str
    """The whole; bytes that are no UTF-8 are replacement characters."""
    texts: list[str]
    """`[T]`: each token's text. One after another they are `text`."""
    offsets: NDArray[np.int64]
    """`[T, 2]`: where each token begins and ends in the UTF-8 of `text`."""


def pieces_of_bytes(content: bytes, lengths: NDArray[np.int64]) -> TokenPieces:
    """The pieces of tokens whose bytes are known.

    Args:
        content: the bytes of all tokens, one after another.
        lengths: `[T]`, bytes of each token.
    """
    text = content.decode(errors="surrogateescape")
    codes = _code_points(text)
    broken = (codes >= _FIRST_SURROGATE) & (codes <= _LAST_SURROGATE)
    raw = _bounds(np.where(broken, 1, _utf8_lengths(codes)))
    shown = _bounds(_utf8_lengths(codes))  # a replacement character has as many bytes as these
    bounds = _bounds(lengths)
    character = np.searchsorted(raw, bounds, side="right") - 1
    cuts = shown[character] + bounds - raw[character]
    if broken.any():
        text = "".join(
            _REPLACEMENT if wrong else one for one, wrong in zip(text, broken.tolist(), strict=True)
        )
    return _cut(text, character, cuts)


def pieces_of_spans(text: str, spans: NDArray[np.int64]) -> TokenPieces:
    """The pieces of tokens of which is known where in a text they lie, in characters.

    Blanks that no token covers belong to the token after them, or to the last one.

    Args:
        text: the whole.
        spans: `[T, 2]`, T ≥ 1; tokens that share a character have the same span.
    """
    ends = np.minimum(spans[:, 1], np.append(spans[1:, 0], len(text)))
    ends[-1] = len(text)
    cuts = np.concatenate([np.zeros(1, np.int64), np.maximum.accumulate(ends)])
    shown = _bounds(_utf8_lengths(_code_points(text)))
    return _cut(text, cuts, shown[cuts])


def pieces_of_texts(texts: list[str]) -> TokenPieces:
    """The pieces of tokens whose texts are known."""
    lengths = np.array([len(text.encode()) for text in texts], dtype=np.int64)
    bounds = _bounds(lengths)
    return TokenPieces("".join(texts), texts, np.stack([bounds[:-1], bounds[1:]], axis=1))


def _cut(text: str, characters: NDArray[np.int64], cuts: NDArray[np.int64]) -> TokenPieces:
    """Pieces between boundaries, given in whole characters `[T + 1]` and in bytes `[T + 1]`."""
    bounds = characters.tolist()
    texts = [text[start:stop] for start, stop in pairwise(bounds)]
    return TokenPieces(text, texts, np.stack([cuts[:-1], cuts[1:]], axis=1))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _utf8_lengths(codes: NDArray[np.uint32]) -> NDArray[np.int64]:
    return 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)


def _bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where parts of these lengths begin and end, `[T + 1]`."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
