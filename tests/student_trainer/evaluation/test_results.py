import json

import pytest

from student_trainer.evaluation import Evaluation, Evaluations, ProblemCounts, changes


def counts(name: str, correct: int, samples: int = 4, tokens: int = 40) -> ProblemCounts:
    return ProblemCounts(name, samples, correct, samples - correct, tokens, 0.5 * tokens)


BEFORE = Evaluations(
    {
        "heldout": Evaluation((counts("a", 0), counts("b", 2), counts("c", 4))),
        "hard": Evaluation((counts("x", 0), counts("y", 1)), pass_at=(1, 2)),
    }
)


def test_figures_of_a_set() -> None:
    evaluation = BEFORE.heldout
    assert evaluation.accuracy.value == pytest.approx(0.5)
    # Problems are the independent units: the deviation of 0, 0.5, 1 is 0.5.
    assert evaluation.accuracy.stderr == pytest.approx(0.5 / 3**0.5)
    assert (evaluation.samples, evaluation.length, evaluation.entropy) == (12, 10.0, 0.5)
    assert evaluation.truncated_share == 0.5
    passes = BEFORE.sets["hard"].pass_at_k
    assert passes[1].value == pytest.approx(0.125)
    assert passes[2].value == pytest.approx((0 + 0.5) / 2)


def test_metrics_of_the_default_set_have_no_name_in_them() -> None:
    row = BEFORE.row()
    assert row["eval/accuracy"] == pytest.approx(0.5)
    assert row["eval/hard/accuracy"] == pytest.approx(0.125)
    assert row["eval/hard/pass@2"] == pytest.approx(0.25)
    assert row["eval/ci_low"] < 0.5 < row["eval/ci_high"]
    assert {"eval/stderr", "eval/samples", "eval/length", "eval/entropy"} <= row.keys()


def test_what_a_sampler_does_not_give_is_left_out() -> None:
    known = counts("a", 1)
    without = ProblemCounts("b", 4, 1, 0, 40, None)
    row = Evaluation((known, without)).row()
    assert "entropy" not in row
    assert "stderr" not in Evaluation((known,)).row()


def test_records_survive_json() -> None:
    record = json.loads(json.dumps(BEFORE.record(), allow_nan=False))
    assert Evaluations.from_record(record) == BEFORE
    assert record["sets"]["hard"]["pass@2"] == pytest.approx(0.25)


def test_changes_are_paired_by_problem() -> None:
    after = Evaluations(
        {
            "heldout": Evaluation((counts("a", 1), counts("b", 3), counts("c", 4))),
            "hard": Evaluation((counts("x", 0), counts("z", 4)), pass_at=(2,)),
        }
    )
    found = changes(BEFORE, after)
    assert list(found) == ["heldout"]  # the other set shows other problems now
    change = found["heldout"]["accuracy"]
    assert change.value == pytest.approx(1 / 6)
    # Of 0.25, 0.25, 0: deviation 0.1443.
    assert change.stderr == pytest.approx(0.14434 / 3**0.5, rel=1e-3)
    with pytest.raises(ValueError, match="same problems"):
        after.sets["hard"].change_from(BEFORE.sets["hard"])


def test_changes_of_pass_at_k_where_both_have_enough_samples() -> None:
    before = Evaluation((counts("a", 1, samples=1), counts("b", 0, samples=1)))
    after = Evaluation((counts("a", 2), counts("b", 2)), pass_at=(1, 2))
    assert list(after.change_from(before)) == ["accuracy", "pass@1"]
