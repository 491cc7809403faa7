import json
from pathlib import Path
from typing import Any

import pytest

from counterhint.errors import InputError
from student_trainer.hints import Hint
from student_trainer.score_file.rows import open_rollouts

LINE: dict[str, Any] = {"problem": "2 + 2?", "response": "4", "correct_hint": "it is 4"}
SIBLING: dict[str, Any] = {"problem": "2 + 2?", "response": "4", "correct": True}


def write(folder: Path, *rows: Any) -> Path:
    file = folder / "rollouts.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_lines_of_one_problem_are_a_group_wherever_they_stand(tmp_path: Path) -> None:
    other = {**LINE, "problem": "é?", "wrong_hints": ["5", {"hint": "6!", "answer": "6"}]}
    file = open_rollouts(write(tmp_path, LINE, other, "", {**LINE, "response": "four"}))
    assert file.rollouts == 3
    first, second = file.read([0, 1])
    assert [(number, row.response) for number, row in first] == [(1, "4"), (4, "four")]
    assert [row.problem for _, row in second] == ["é?"]
    assert [hint.as_hint() for hint in second[0][1].wrong_hints] == [Hint("5", ""), Hint("6!", "6")]


def test_a_run_s_own_rollouts_are_read_with_their_hints(tmp_path: Path) -> None:
    row = {
        "problem": "2 + 2?",
        "problem_id": "p1",
        "token_ids": [4, 5],
        "token_classes": ["task", "other"],
        "student": [-0.5, None],
        "correct_hint": [-0.1, -0.2],
        "wrong_hints": [[-0.3, -0.4]],
        "hint_texts": {"correct": "so 4", "wrong": ["so 5"]},
        "hint_answers": {"correct": "4", "wrong": ["5"]},
    }
    (group,) = open_rollouts(write(tmp_path, row)).read([0])
    assert group[0][1].correct_hint is not None
    assert group[0][1].correct_hint.as_hint() == Hint("so 4", "4")
    assert [hint.as_hint() for hint in group[0][1].wrong_hints] == [Hint("so 5", "5")]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "is empty"),
        ([LINE, "{"], "line 2 is no JSON object"),
        ([LINE, "[]"], "line 2: Input should be"),
        ([{"response": "4"}], "line 1: problem: Field required"),
        ([{**LINE, "token_ids": [1]}], r"line 1: .*either response \(text\) or token_ids"),
        ([{**LINE, "student": [-1.0]}], "student has 1 log probs, but there are 0 token_ids"),
        ([{**SIBLING, "wrong_hints": ["5"]}], "wrong_hints without correct_hint"),
        ([{**LINE, "problem_id": "a"}, {**LINE, "problem_id": "a", "problem": "?"}], "in line 1"),
        ([LINE, SIBLING], "line 1 has hints of its own and this one none"),
        ([{"problem": "?", "response": "4"}], "line 1 has no correct_hint, .*give correct"),
        ([{**LINE, "token_classes": [], "hint_texts": {}}], "line 1 .*hint_answers"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_scored(
    tmp_path: Path, rows: list[Any], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        open_rollouts(write(tmp_path, *rows))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.jsonl"):
        open_rollouts(tmp_path / "none.jsonl")
