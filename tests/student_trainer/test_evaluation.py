import pytest

from student_trainer.evaluation import GradedSample, summarize


def test_mean_at_n_and_its_error() -> None:
    graded = [
        [GradedSample(True, 4, 2.0), GradedSample(True, 6, 3.0)],
        [GradedSample(False, 10, 1.0), GradedSample(False, 20, 4.0)],
        [GradedSample(True, 5, 2.5), GradedSample(False, 5, 2.5)],
    ]
    evaluation = summarize(graded)
    assert evaluation.accuracy == pytest.approx(0.5)
    # Problems are the independent units: the deviation of 1, 0, 0.5 is 0.5.
    assert evaluation.standard_error == pytest.approx(0.5 / 3**0.5)
    assert (evaluation.samples, evaluation.length) == (6, pytest.approx(50 / 6))
    assert evaluation.entropy == pytest.approx(15 / 50)
