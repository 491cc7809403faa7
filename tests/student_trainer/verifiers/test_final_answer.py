import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.verifiers.final_answer import (
    ANSWER_FORMAT,
    FIND,
    last_answer_tags,
    last_boxed,
    last_number,
)

balanced = st.recursive(
    st.text("ab1 +", max_size=4),
    lambda inner: st.builds(lambda a, b, c: f"{a}{{{b}}}{c}", inner, inner, inner),
    max_leaves=12,
)


@given(balanced, balanced)
def test_nested_braces_are_kept_whole(content: str, around: str) -> None:
    expected = content.strip() or None
    assert last_boxed(f"{around}\\boxed{{{content}}}{around}") == expected


@given(st.lists(balanced, min_size=1, max_size=4))
def test_last_box_wins(contents: list[str]) -> None:
    text = " so ".join(f"\\boxed{{{content}}}" for content in contents)
    assert last_boxed(text) == (contents[-1].strip() or None)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("no box", None),
        ("\\boxed{}", None),
        ("\\boxed{ 5 }", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."),
        ("\\boxed{1} then \\boxed{2", "1"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("} \\boxed{4}", "4"),
        ("\\boxed {4}", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<answer>1</answer> or <answer>\n 2\n3 </answer>", "2\n3"),
        ("<ANSWER>x</ANSWER>", "x"),
        ("I write <answer> and then <answer>7</answer>", "7"),
        ("<answer>7", None),
        ("<answer> </answer>", None),
    ],
)
def test_last_answer_tags(text: str, content: str | None) -> None:
    assert last_answer_tags(text) == content


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4 - 1 - 7 = -4.", "-4"),
        ("3-5", "5"),
        ("x=-2.50", "-2.50"),
        ("it is 1,234,567 in all", "1234567"),
        ("1, 2", "2"),
        ("3/4", "3/4"),
        ("1e9", "1e9"),
        ("version v2", None),
        ("none", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


@given(st.integers())
def test_last_number_reads_any_integer(number: int) -> None:
    assert last_number(f"first 12, then {number:,}.") == str(number)


@given(st.text(alphabet=st.sampled_from("\\boxed{}<answer>/ 1,.-e\n")) | st.text())
def test_arbitrary_text_gives_an_answer_or_none(text: str) -> None:
    for find in FIND.values():
        answer = find(text)
        assert answer is None or (answer == answer.strip() != "")


def test_every_place_has_an_answer_format() -> None:
    assert FIND.keys() == ANSWER_FORMAT.keys()
