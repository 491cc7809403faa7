"""The losses against numbers of the authors' implementation of arXiv 2606.11709."""

from pathlib import Path

import pytest

from student_trainer.verify_losses import Case, read_cases, verify_case

CASES = read_cases(Path(__file__).parents[2] / "vectors" / "reference_losses.json")


@pytest.mark.parametrize(
    ("index", "case"),
    list(enumerate(CASES)),
    ids=[f"{index}-{case.method}" for index, case in enumerate(CASES)],
)
def test_loss_and_gradient_match_the_reference(index: int, case: Case) -> None:
    errors = verify_case(index, case)
    assert errors.loss < 1e-6
    assert errors.gradient < 1e-6
