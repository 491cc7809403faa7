import pytest

from student_trainer.evaluation import Evaluation, Evaluations, ProblemCounts
from student_trainer.summary import summarize_run


def evaluations(correct: int, tokens: int, entropy: float | None) -> Evaluations:
    problems = (
        ProblemCounts("a", 10, correct, 0, 10 * tokens, entropy),
        ProblemCounts("b", 10, correct + 2, 0, 10 * tokens, entropy),
    )
    return Evaluations({"heldout": Evaluation(problems)})


BEFORE, AFTER = evaluations(3, 39, 390.0), evaluations(6, 41, 205.0)


def test_the_summary_of_a_run() -> None:
    totals = {
        "stage/sampling": 6.0,
        "stage/scoring_wait": 2.0,
        "training_seconds": 10.0,
        "scoring/tokens_naive": 900.0,
        "scoring/tokens_computed": 300.0,
        "scoring/groups": 7.0,
    }
    summary = summarize_run("rlcsd", "teacher", 60, 12.5, totals, BEFORE, AFTER)
    assert summary["heldout_accuracy_before"] == pytest.approx(0.4)
    assert summary["heldout_accuracy_after"] == pytest.approx(0.7)
    assert summary["heldout_stderr_before"] == pytest.approx(0.1)
    assert (summary["response_length_before"], summary["response_length_after"]) == (39.0, 41.0)
    assert (summary["entropy_before"], summary["entropy_after"]) == (1.0, 0.5)
    change = summary["changes"]["heldout"]["accuracy"]
    assert (change["value"], change["stderr"]) == (pytest.approx(0.3), pytest.approx(0))
    assert summary["scoring_wait_share"] == pytest.approx(0.2)
    assert summary["seconds_by_stage"] == {"sampling": 6.0, "scoring_wait": 2.0}
    counts = ("tokens_naive", "tokens_computed", "groups_scored", "heldout_samples")
    assert [summary[key] for key in counts] == [900, 300, 7, 20]


def test_without_a_teacher_nothing_was_scored() -> None:
    after = evaluations(6, 41, None)
    summary = summarize_run("grpo", None, 1, 1.0, {"training_seconds": 1.0}, BEFORE, after)
    assert (summary["tokens_naive"], summary["scoring_wait_share"]) == (0, 0.0)
    assert summary["entropy_after"] is None
