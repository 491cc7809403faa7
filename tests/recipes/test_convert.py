"""The converter of the paper's data, on files of the form that the authors' trainer reads."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from student_trainer.tasks import FileTaskConfig


def write(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def row(source: str, number: int, solution: str = "") -> dict[str, object]:
    text = f"Which is {number}?"
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": f"Problem: {text} Box it."}],
        "reward_model": {"ground_truth": str(number), "style": "rule"},
        "extra_info": {"index": number, "problem": text, "solution": solution},
    }


def convert(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "recipes/paper/convert.py", str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_their_files_become_files_of_a_task(tmp_path: Path) -> None:
    verl, paper = tmp_path / "verl", tmp_path / "paper"
    write(verl / "deep" / "train.parquet", row("x", 1, "One."), row("x", 2, "Two."))
    write(verl / "aime24+aime25" / "val.parquet", row("aime24", 3), row("aime25", 4))
    ended = convert(verl, paper)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in paper.iterdir()) == [
        "aime24.jsonl",
        "aime25.jsonl",
        "deep.jsonl",
    ]
    lines = [json.loads(line) for line in (paper / "deep.jsonl").read_text().splitlines()]
    assert lines[0] == {"problem": "Which is 1?", "answer": "1", "solution": "One."}
    task = FileTaskConfig(
        train=paper / "deep.jsonl", heldout=paper / "aime25.jsonl", verifier="boxed_math"
    ).build()
    assert {task.train_problem(index).answer for index in range(2)} == {"1", "2"}
    assert [problem.answer for problem in task.heldout_problems(1)] == ["4"]


def test_a_problem_without_a_text_of_its_own_is_taken_from_the_prompt(tmp_path: Path) -> None:
    record = row("amc23", 5)
    record["extra_info"] = {"index": 5}
    write(tmp_path / "verl" / "amc23" / "val.parquet", record)
    convert(tmp_path / "verl", tmp_path / "paper")
    (line,) = (tmp_path / "paper" / "amc23.jsonl").read_text().splitlines()
    assert json.loads(line)["problem"] == "Problem: Which is 5? Box it."


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    ended = convert(tmp_path, tmp_path / "paper")
    assert ended.returncode == 1
    assert "holds no NAME/train.parquet" in ended.stderr
