import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.tasks.split import is_heldout, problem_digest


@given(st.lists(st.text("abc", min_size=1), min_size=1), st.floats(0.01, 0.99))
def test_white_space_makes_no_difference(words: list[str], fraction: float) -> None:
    plain, spaced = " ".join(words), "\n" + " \t ".join(words) + " "
    assert problem_digest(plain) == problem_digest(spaced)
    assert is_heldout(plain, fraction) == is_heldout(spaced, fraction)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_share_that_is_held_out(fraction: float) -> None:
    share = sum(is_heldout(f"problem {i}", fraction) for i in range(10_000)) / 10_000
    assert share == pytest.approx(fraction, abs=0.02)


def test_what_is_held_out_stays_so_at_a_higher_fraction() -> None:
    texts = [f"problem {i}" for i in range(500)]
    assert {t for t in texts if is_heldout(t, 0.1)} < {t for t in texts if is_heldout(t, 0.3)}
