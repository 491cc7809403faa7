import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from student_trainer.verifiers.boxed_math import BoxedMath


@pytest.fixture(scope="module")
def verifier() -> BoxedMath:
    return BoxedMath(seconds=20.0)


def is_right(verifier: BoxedMath, response: str, reference: str) -> bool:
    answer = verifier.find_answer(response)
    return answer is not None and verifier.is_correct(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("5", "05"),
        ("+5", "5"),
        ("1000", "1,000"),
        ("0.5", "1/2"),
        ("\\frac{1}{2}", "0.5"),
        ("\\frac24", "\\dfrac{1}{2}"),
        ("(x+1)^2", "x^2 + 2x + 1"),
        ("2\\sqrt2", "\\sqrt{8}"),
        ("\\{2, 1\\}", "\\{1, 2\\}"),
        ("12", "12 \\text{ cm}"),
        ("\\text{A}", "A"),
        ("$7$", "7"),
        ("7", "\\boxed{7}"),
        ("x = 7", "7"),
    ],
)
def test_equal(verifier: BoxedMath, answer: str, reference: str) -> None:
    assert is_right(verifier, f"thus \\boxed{{{answer}}}.", reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("-5", "5"), ("5.1", "5"), ("\\frac{1}{3}", "0.3"), ("(2, 1)", "(1, 2)"), ("x", "y")],
)
def test_unequal(verifier: BoxedMath, answer: str, reference: str) -> None:
    assert not is_right(verifier, f"thus \\boxed{{{answer}}}.", reference)


def test_no_box_gives_no_answer(verifier: BoxedMath) -> None:
    assert verifier.find_answer("the answer is 5") is None


@settings(deadline=None, max_examples=60)
@given(st.integers(-999, 999), st.sampled_from([1, 2, 4, 5, 8, 10, 16, 20, 25]), st.integers(1, 9))
def test_fractions_equal_their_decimals(
    verifier: BoxedMath, numerator: int, denominator: int, factor: int
) -> None:
    value = Fraction(numerator, denominator)
    decimal = f"{numerator / denominator:.6f}"
    expanded = f"\\frac{{{numerator * factor}}}{{{denominator * factor}}}"
    assert verifier.is_correct(expanded, str(value))
    assert verifier.is_correct(decimal, str(value))
    assert verifier.is_correct(expanded, decimal)
    assert not verifier.is_correct(f"{numerator / denominator + 0.001:.6f}", str(value))


@settings(deadline=None, max_examples=60)
@given(
    st.text(max_size=30) | st.text(alphabet="0123456789x+-^!()\\{}frac, =.", max_size=12),
    st.sampled_from(["1", "\\frac{1}{2}", "x^2"]),
)
def test_arbitrary_answers_are_graded(verifier: BoxedMath, answer: str, reference: str) -> None:
    assert isinstance(verifier.is_correct(answer, reference), bool)


@pytest.mark.parametrize("answer", ["10^{10^{10}}", "9^{9^{9^9}}", "10^9!"])
def test_answers_too_costly_to_compare_are_wrong(answer: str) -> None:
    verifier = BoxedMath(seconds=0.5)
    assert not verifier.is_correct(answer, "10")
    assert BoxedMath(seconds=20.0).is_correct("1/2", "0.5")  # in a new process


def test_works_outside_the_main_thread(verifier: BoxedMath) -> None:
    correct: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda n=n: correct.append(verifier.is_correct(f"{n}/2", f"{n / 2}"))
        )
        for n in (1, 3, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert correct == [True, True, True]


def test_check_reference(verifier: BoxedMath) -> None:
    verifier.check_reference("\\frac12")
    with pytest.raises(ValueError, match="empty"):
        verifier.check_reference("$ $")
