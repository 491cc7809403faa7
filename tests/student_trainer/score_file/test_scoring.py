"""Files scored by a real teacher process, through the command."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from counterhint import contrast, modulate, one_sided
from student_trainer.cli import Score
from student_trainer.hints import Hint
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.score_file import scoring
from student_trainer.tasks.base import Problem
from tests.byte_level_model import write_byte_level_llama
from tests.teacher_process import serve_teacher

OPTIONS = ["--device", "cpu", "--content-cache-bytes", "0"]
PROBLEMS = ("What is 3 + 4?", "And 2 + 2?", "1 + 1 = ?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_byte_level_llama(folder)
    return folder


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_teacher(model, tmp_path_factory.mktemp("socket"), OPTIONS) as address:
        yield address


def siblings() -> list[dict[str, Any]]:
    """Two right and two wrong responses to each problem; to the last one, right ones only."""
    rows = []
    for number, problem in enumerate(PROBLEMS):
        for text, correct in (("so 7 é", True), ("7!", True), ("it is 9", False), ("8", False)):
            correct = correct or number == 2
            answer = text.strip("é! ")[-1]
            row = {"problem": problem, "response": f"{text} ({number})", "response_answer": answer}
            rows.append({**row, "correct": correct, "advantage": 1.0 if correct else -1.0})
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rollouts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def score(file: Path, model: Path, address: str, **fields: Any) -> Path:
    out = file.with_name("scores.parquet")
    command = Score(rollouts=file, tokenizer=model, out=out, address=address, **fields)
    assert command.run() == 0
    return out


def read(file: Path) -> list[dict[str, Any]]:
    return sorted(pq.read_table(file).to_pylist(), key=lambda row: int(row["line"]))


def test_signals_are_those_of_the_model_itself(tmp_path: Path, model: Path, address: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = [*tokenizer.encode("so 7", add_special_tokens=False), tokenizer.eos_token_id]
    student = [-0.5] * len(ids)
    row = {
        "problem": PROBLEMS[0],
        "token_ids": ids,
        "student": [*student[:-1], None],
        "advantage": 0.5,
        "correct_hint": {"hint": "3 + 4 is 7", "answer": "7"},
        "wrong_hints": ["8 it is", {"hint": "3 + 4 is 9", "answer": "9"}],
    }
    out = score(write(tmp_path, [row]), model, address, answer_format="Say it.", tau=0.1)
    (found,) = read(out)

    prompts = Prompts(tokenizer, PromptConfig(), "Say it.")
    network = LlamaForCausalLM.from_pretrained(model)

    @torch.no_grad()
    def log_probs(hint: Hint) -> np.ndarray:
        context = prompts.hinted(Problem("p", PROBLEMS[0], ""), hint).tolist()
        logits = network(torch.tensor([context + ids])).logits[0, len(context) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        return np.asarray(chosen, dtype=np.float32)

    right = log_probs(Hint("3 + 4 is 7", "7"))
    wrong = np.stack([log_probs(Hint("8 it is", "")), log_probs(Hint("3 + 4 is 9", "9"))])
    made = modulate(contrast(right, wrong), 0.5, scoring.Gate(tau=0.1))
    np.testing.assert_allclose(found["correct_hint"], right, atol=2e-4)
    np.testing.assert_allclose(found["wrong_hints"], wrong, atol=2e-4)
    np.testing.assert_allclose(found["e_ctr"], contrast(right, wrong), atol=4e-4)
    np.testing.assert_allclose(found["residual"], made.residual, atol=4e-3)
    np.testing.assert_allclose(found["modulated"], made.advantage, atol=4e-3)
    one = one_sided(right, np.array(student, dtype=np.float32))
    np.testing.assert_allclose(found["e_c"][:-1], one[:-1], atol=2e-4)
    assert found["e_c"][-1] is None
    assert found["tokens"] == tokenizer.batch_decode([[token] for token in ids])
    assert (found["line"], found["problem_id"], found["reason"]) == (1, PROBLEMS[0], None)
    assert len(found["weights_revision"]) > 5


def test_siblings_are_hints_as_in_training(tmp_path: Path, model: Path, address: str) -> None:
    rows = siblings()
    found = read(score(write(tmp_path, rows), model, address))
    assert [row["line"] for row in found] == list(range(1, len(rows) + 1))
    for number, row in enumerate(found):
        if number < 8:
            assert row["reason"] is None
            assert len(row["wrong_hints"]) == (2 if rows[number]["correct"] else 1)
            assert len(row["e_ctr"]) == len(row["token_ids"])
            assert row["e_c"] is None  # nothing is known of the student
        else:
            assert row["reason"] == "NO_LEGAL_HINTS"
            assert row["e_ctr"] is row["correct_hint"] is None


def test_a_stopped_command_goes_on_where_it_was(
    tmp_path: Path,
    model: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(scoring, "GROUPS_A_PART", 1)
    (tmp_path / "whole").mkdir()
    whole = read(score(write(tmp_path / "whole", siblings()), model, address))
    file = write(tmp_path, siblings())
    add = scoring.ScoreParts.add

    def add_one(parts: scoring.ScoreParts, rows: list[dict[str, Any]]) -> None:
        if parts.done:
            raise KeyboardInterrupt
        add(parts, rows)

    with monkeypatch.context() as stopping:
        stopping.setattr(scoring.ScoreParts, "add", add_one)
        with pytest.raises(KeyboardInterrupt):
            score(file, model, address)
    parts = tmp_path / "scores.parquet.parts"
    assert len(list(parts.glob("*.parquet"))) == 1
    with pytest.raises(scoring.InputError, match=r"scored with seed=0, not with seed=1"):
        score(file, model, address, seed=1)
    student = AutoTokenizer.from_pretrained(model)
    student.add_tokens(["zz"])
    student.save_pretrained(tmp_path / "student")
    with pytest.raises(scoring.InputError, match="student_tokenizer="):
        score(file, tmp_path / "student", address, teacher_tokenizer=model)
    capsys.readouterr()
    out = score(file, model, address, json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["rollouts"], said["unscored"]) == (12, 4)
    assert 0 < said["tokens_computed"] < said["tokens_naive"]
    assert read(out) == whole
    assert not parts.exists()
    with pytest.raises(scoring.InputError, match="is there already"):
        score(file, model, address)


def test_the_command_line_says_what_is_wrong(tmp_path: Path, model: Path, address: str) -> None:
    file = write(tmp_path, siblings())

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.cli", "score", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    out = tmp_path / "scores.parquet"
    wrong = run(file, "--tokenizer", tmp_path, "--out", out, "--address", address)
    assert wrong.returncode == 2
    assert "no tokenizer can be loaded" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    right = run(file, "--tokenizer", model, "--out", out, "--address", address)
    assert right.returncode == 0
    assert f"Wrote {out}: 12 rollouts, 4 without scores" in right.stdout
