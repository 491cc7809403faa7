"""JSON bodies: what is refused, and that nothing else is."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.errors import HttpError
from services.gateway.json_body import parse_strictly

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list) else 0


@given(value=values, ascii_only=st.booleans())
def test_json_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode(errors="ignore")
    nested = depth(value)
    if not ascii_only:
        assert parse_strictly(body, nested) == json.loads(body)
    if nested:
        with pytest.raises(HttpError, match="nested"):
            parse_strictly(body, nested - 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": 1, "a": 1}', "'a' occurs twice"),
        (b'[{"b": {"c": 1, "c": 2}}]', "'c' occurs twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b'"\\ud83d"', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'"\xff"', "no UTF-8"),
        ('{"a": "\\ud800"}'.encode("utf-16"), "no UTF-8"),
        ('"é"'.encode("utf-32"), "no UTF-8"),
        (b'\xef\xbb\xbf"x"', "BOM"),
        (b"[" * 100_000, "nested 100000 deep"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "nested 17 deep"),
        (b"1" * 5000, "4300 digits"),
        (b"{", "Expecting property name"),
        (b"[1] 2", "Extra data"),
        (b"", "Expecting value"),
    ],
)
def test_what_parsers_disagree_about_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(HttpError) as refused:
        parse_strictly(body, 16)
    assert said in refused.value.detail
    assert (refused.value.status_code, refused.value.code) == (400, "INVALID_JSON")


def test_brackets_in_texts_are_no_nesting() -> None:
    body = json.dumps(['[[[[{{{{\\"[[', 'a"[']).encode()
    assert parse_strictly(body, 1) == json.loads(body)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_strictly(b'"\\ud83d\\ude42"', 0) == "🙂"


def test_a_number_too_large_for_a_float_is_left_to_the_model() -> None:
    assert parse_strictly(b"1e999", 0) == math.inf


def test_large_bodies_that_are_wrong_are_refused_in_time_that_grows_with_their_size() -> None:
    open_text = b'"' + b'\\"' * 500_000  # with its square, these took hours
    names = b",".join(b'"%d": 1' % index for index in range(200_000))
    for body, said in (
        (open_text, "Unterminated string"),
        (open_text + b"\\", "Unterminated string"),
        (b"{" + names + b"}", "200000 names, at most 256"),
    ):
        with pytest.raises(HttpError, match=said):
            parse_strictly(body, 16)
