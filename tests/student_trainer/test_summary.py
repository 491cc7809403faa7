import pytest

from student_trainer.evaluation import Evaluation
from student_trainer.summary import evaluation_totals, summarize_run


def test_the_summary_of_a_run() -> None:
    totals = {
        **evaluation_totals(Evaluation(0.4, 0.02, 512, 39.0, 0.8), "before"),
        **evaluation_totals(Evaluation(0.7, 0.01, 512, 41.0, 0.5), "after"),
        "stage/sampling": 6.0,
        "stage/scoring_wait": 2.0,
        "training_seconds": 10.0,
        "scoring/tokens_naive": 900.0,
        "scoring/tokens_computed": 300.0,
        "scoring/groups": 7.0,
    }
    summary = summarize_run("rlcsd", "teacher", 60, 12.5, totals)
    assert summary["heldout_accuracy_before"] == 0.4
    assert summary["heldout_accuracy_after"] == 0.7
    assert (summary["response_length_before"], summary["response_length_after"]) == (39.0, 41.0)
    assert (summary["entropy_before"], summary["entropy_after"]) == (0.8, 0.5)
    assert summary["scoring_wait_share"] == pytest.approx(0.2)
    assert summary["seconds_by_stage"] == {"sampling": 6.0, "scoring_wait": 2.0}
    counts = ("tokens_naive", "tokens_computed", "groups_scored", "heldout_samples")
    assert [summary[key] for key in counts] == [900, 300, 7, 512]


def test_without_a_teacher_nothing_was_scored() -> None:
    totals = {
        **evaluation_totals(Evaluation(0, 0, 1, 1, 0), "before"),
        **evaluation_totals(Evaluation(0, 0, 1, 1, 0), "after"),
        "training_seconds": 1.0,
    }
    summary = summarize_run("grpo", None, 1, 1.0, totals)
    assert (summary["tokens_naive"], summary["scoring_wait_share"]) == (0, 0.0)
