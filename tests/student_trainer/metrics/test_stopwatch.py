import pytest

from student_trainer.metrics import Stopwatch


def test_a_stopwatch_adds_up_also_when_a_stage_fails() -> None:
    watch = Stopwatch()
    with watch.stage("a"):
        pass
    first = watch.seconds["a"]
    with pytest.raises(RuntimeError), watch.stage("a"):
        raise RuntimeError
    assert watch.seconds["a"] > first
