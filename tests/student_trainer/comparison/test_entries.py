from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.comparison.entries import read_entries
from tests.student_trainer.comparison.compared_runs import SIGNALS, write_run


def test_runs_that_differ_in_their_seed_alone_are_one_entry(folders: list[Path]) -> None:
    entries = read_entries([*folders[2:], *reversed(folders[:2])])
    assert [entry.name for entry in entries] == ["opsd", "rlcsd", "grpo"]
    assert [list(entry.runs) for entry in entries] == [[0, 1]] * 3
    assert entries[2].runs[1].path == folders[1]


def test_entries_of_one_method_are_named_by_what_sets_them_apart(tmp_path: Path) -> None:
    slow, fast = (
        write_run(tmp_path / name, method="opsd", signals=SIGNALS, optimizer={"lr": lr})
        for name, lr in (("a", 1e-4), ("b", 1e-3))
    )
    other = write_run(tmp_path / "c", method="grpo")
    names = [entry.name for entry in read_entries([slow, other, fast])]
    assert names == ["opsd optimizer.lr=0.0001", "grpo", "opsd optimizer.lr=0.001"]


def test_where_a_run_scores_and_logs_does_not_set_it_apart(tmp_path: Path) -> None:
    here = write_run(tmp_path / "a", seed=0, scoring={"address": "unix:///a.sock"})
    there = write_run(tmp_path / "b", seed=1, scoring={"address": "unix:///b.sock"})
    assert len(read_entries([here, there])) == 1


def test_another_teacher_sets_a_run_apart(tmp_path: Path) -> None:
    own = write_run(tmp_path / "a", method="rlcsd", signals=SIGNALS)
    large = write_run(tmp_path / "b", method="rlcsd", signals=SIGNALS)
    summary = large / "summary.json"
    summary.write_text(summary.read_text().replace('"teacher": "student"', '"teacher": "teacher"'))
    names = [entry.name for entry in read_entries([own, large])]
    assert names == ["rlcsd teacher=student", "rlcsd teacher=teacher"]


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    once, again = (write_run(tmp_path / name) for name in "ab")
    with pytest.raises(InputError, match="same settings and the same seed 0"):
        read_entries([once, again])


@pytest.mark.parametrize("missing", ["summary.json", "recipe.yaml"])
def test_a_run_that_has_not_ended_is_refused(missing: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / missing).unlink()
    with pytest.raises(InputError, match="only runs that have ended"):
        read_entries([folder])
