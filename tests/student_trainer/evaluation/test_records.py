from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.evaluation import (
    Evaluation,
    EvaluationLog,
    Evaluations,
    ProblemCounts,
    read_evaluations,
)


def evaluations(correct: int) -> Evaluations:
    return Evaluations({"heldout": Evaluation((ProblemCounts("a", 4, correct, 0, 40, 8.0),))})


def test_a_resumed_run_goes_on_with_what_it_found_before(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    log = EvaluationLog(path)
    log.start()
    for step in (0, 10, 20):
        log.append(step, evaluations(step // 10))
    log.close()
    resumed = EvaluationLog(path)
    resumed.start(resumed_step=10)
    assert resumed.first == (0, evaluations(0))
    assert resumed.last == (10, evaluations(1))
    resumed.append(20, evaluations(4))
    resumed.close()
    assert read_evaluations(path) == [
        (0, evaluations(0)),
        (10, evaluations(1)),
        (20, evaluations(4)),
    ]


def test_files_of_no_use_are_named(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    with pytest.raises(InputError, match="there is no file"):
        read_evaluations(path)
    with pytest.raises(InputError, match="no evaluation of the run that is to be resumed"):
        EvaluationLog(path).start(resumed_step=3)
    path.write_text("")
    with pytest.raises(InputError, match="holds no evaluation"):
        read_evaluations(path)
    path.write_text('{"step": 1, "eval/accuracy": 0.5}\n')
    with pytest.raises(InputError, match="line 1 is no evaluation"):
        read_evaluations(path)
