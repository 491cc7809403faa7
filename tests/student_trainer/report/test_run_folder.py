from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.report.run_folder import read_run_folder


def test_a_whole_run_is_read(run_dir: Path) -> None:
    run = read_run_folder(run_dir)
    assert run.name == "demo"
    assert run.setting("method.kind") == "rlcsd"
    assert run.setting("method.kind.deeper") is None
    assert run.setting("nothing.here") is None
    assert [step for step, _ in run.points("eval/accuracy")] == list(range(0, 61, 10))
    assert len(run.rollouts) == 24


def test_a_run_that_is_still_going_is_read(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    (run_dir / "rollouts.jsonl").unlink()
    run = read_run_folder(run_dir)
    assert run.summary == {}
    assert run.rollouts == []


def test_a_missing_folder_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent is not a folder: give the folder of a run"):
        read_run_folder(tmp_path / "absent")


@pytest.mark.parametrize("content", [None, "", '{"step": 0, "eval'])
def test_a_folder_without_steps_is_named_with_the_remedy(
    tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"holds no steps.*give the folder of a run"):
        read_run_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [("summary.json", "{"), ("summary.json", "[]"), ("recipe.yaml", "a: [1"), ("recipe.yaml", "a")],
)
def test_a_damaged_file_is_named(run_dir: Path, file: str, content: str) -> None:
    (run_dir / file).write_text(content)
    with pytest.raises(InputError, match=file):
        read_run_folder(run_dir)
