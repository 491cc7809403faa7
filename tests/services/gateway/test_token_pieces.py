"""A response cut where its tokens meet, whatever bytes and spans these have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.token_pieces import (
    TokenPieces,
    pieces_of_bytes,
    pieces_of_spans,
    pieces_of_texts,
)


def check(pieces: TokenPieces, tokens: int) -> None:
    """What every reader of the reply relies on."""
    assert len(pieces.texts) == len(pieces.offsets) == tokens
    assert "".join(pieces.texts) == pieces.text
    whole = pieces.text.encode()  # no lone surrogates
    starts, stops = pieces.offsets[:, 0].tolist(), pieces.offsets[:, 1].tolist()
    assert [*starts, len(whole)] == [0, *stops]
    assert b"".join(whole[a:b] for a, b in zip(starts, stops, strict=True)) == whole


@given(content=st.binary(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=12))
def test_any_bytes_cut_anywhere(content: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = pieces_of_bytes(content, np.diff(bounds))
    check(pieces, len(bounds) - 1)
    readable = "".join(
        "\N{REPLACEMENT CHARACTER}" if 0xDC80 <= ord(one) <= 0xDCFF else one
        for one in content.decode(errors="surrogateescape")
    )
    assert pieces.text == readable


@given(text=st.text(max_size=20), cuts=st.lists(st.integers(0, 80), max_size=12))
def test_the_bytes_of_a_text_keep_their_places(text: str, cuts: list[int]) -> None:
    content = text.encode(errors="ignore")
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = pieces_of_bytes(content, np.diff(bounds))
    assert pieces.offsets[:, 1].tolist() == bounds[1:]
    for piece, (start, stop) in zip(pieces.texts, pieces.offsets.tolist(), strict=True):
        # A piece ends where its token ends, but for a character that the next token completes.
        assert content[start:stop].decode(errors="ignore") in piece


@given(text=st.text(min_size=1, max_size=20), data=st.data())
def test_spans_with_gaps_and_shared_characters(text: str, data: st.DataObject) -> None:
    text = text.encode(errors="ignore").decode() or "a"
    spans, start = [], 0
    for _ in range(data.draw(st.integers(1, 6))):
        if spans and data.draw(st.booleans()):
            spans.append(spans[-1])  # one more token of the same characters
            continue
        start = data.draw(st.integers(start, len(text)))
        stop = data.draw(st.integers(start, len(text)))
        spans.append((start, stop))
        start = stop
    check(pieces_of_spans(text, np.array(spans)), len(spans))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=8))
def test_texts_one_after_another(texts: list[str]) -> None:
    pieces = pieces_of_texts(texts)
    check(pieces, len(texts))
    assert pieces.texts == texts


def test_the_token_that_completes_a_character_carries_it() -> None:
    pieces = pieces_of_bytes("a🙂b".encode(), np.array([2, 1, 2, 1]))
    assert pieces.texts == ["a", "", "🙂", "b"]
    assert pieces.offsets.tolist() == [[0, 2], [2, 3], [3, 5], [5, 6]]


def test_half_a_character_is_shown_as_unreadable() -> None:
    pieces = pieces_of_bytes("é".encode()[:1] + b"b", np.array([1, 1]))
    assert pieces.texts == ["\N{REPLACEMENT CHARACTER}", "b"]
    assert pieces.offsets.tolist() == [[0, 3], [3, 4]]


@pytest.mark.parametrize(
    ("spans", "texts"),
    [
        ([(0, 1), (2, 3)], ["a", " b"]),  # a blank goes with the word behind it
        ([(0, 1), (0, 1), (1, 3)], ["", "a", " b"]),
        ([(0, 1), (1, 2)], ["a", " b"]),  # the last one has what is left
    ],
)
def test_what_no_token_covers_belongs_to_a_neighbour(
    spans: list[tuple[int, int]], texts: list[str]
) -> None:
    assert pieces_of_spans("a b", np.array(spans)).texts == texts
