"""A run folder as the trainer writes it, with seeded figures that look like a real run's."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from counterhint.contrast import contrast, modulate

STYLE = ("so", "then", "now", "next", "wait", "check", ":")
TASK = (*"0123456789", "+", "-", "*", "=")


def write_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    draws = random.Random("run folder")
    recipe = {
        "seed": 7,
        "task": {"kind": "chain", "operations": 4},
        "student": {"model": "models/tiny/student"},
        "method": {"kind": "rlcsd", "tau": 0.02},
        "teacher_refresh": {"kind": "snapshot", "every": 10},
        "report": {
            "note": "The student was warmed up to write differently under a hint.",
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = [metrics_row(step, draws) for step in range(61)]
    write_rows(folder / "metrics.jsonl", rows)
    rollouts = [rollout(step, draws) for step in (1, 20, 40, 60) for _ in range(6)]
    write_rows(folder / "rollouts.jsonl", rollouts)
    summary = {
        "method": "rlcsd",
        "teacher": "models/tiny/teacher",
        "steps": 60,
        "heldout_accuracy_before": rows[0]["eval/accuracy"],
        "heldout_accuracy_after": rows[-1]["eval/accuracy"],
        "heldout_samples": 1024,
        "response_length_before": 39.12,
        "response_length_after": 37.4,
        "entropy_before": 0.6123,
        "entropy_after": 0.4411,
        "seconds_total": 231.4,
        "seconds_by_stage": {
            "models": 71.2,
            "sampling": 48.1,
            "scoring_wait": 12.6,
            "update": 51.9,
            "evaluation": 22.8,
        },
        "scoring_wait_share": 0.094,
        "tokens_naive": 12_345_678,
        "tokens_computed": 3_456_789,
        "groups_scored": 480,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def metrics_row(step: int, draws: random.Random) -> dict[str, Any]:
    learnt = 1 - math.exp(-step / 25)
    row: dict[str, Any] = {"step": step, "time": 3.1 * step}
    if step % 10 == 0:
        accuracy = 0.443 + 0.37 * learnt + draws.gauss(0, 0.008)
        row |= {
            "eval/accuracy": accuracy,
            "eval/stderr": math.sqrt(accuracy * (1 - accuracy) / 1024),
            "eval/length": 39 - 2 * learnt,
            "eval/entropy": 0.61 - 0.2 * learnt,
            "eval/samples": 1024,
        }
    if step > 0:
        contrast_abs = 0.08 + draws.gauss(0, 0.006)
        row |= {
            "rollout/reward": 0.44 + 0.37 * learnt + draws.gauss(0, 0.045),
            "rollout/length": 39 - 2 * learnt + draws.gauss(0, 0.5),
            "rollout/truncated_share": 0.0,
            "rollout/mixed_groups": 0.9 - 0.3 * learnt + draws.gauss(0, 0.06),
            "rollout/entropy": 0.61 - 0.2 * learnt + draws.gauss(0, 0.015),
            "hints/coverage": min(1.0, 0.85 - 0.25 * learnt + draws.gauss(0, 0.04)),
            "hints/wrong_mean": 2.7,
            "signal/contrast_abs": contrast_abs,
            "signal/one_sided_abs": 0.33 + 0.1 * learnt + draws.gauss(0, 0.02),
            "signal/selected_share": 0.27 + draws.gauss(0, 0.02),
            "signal/contrast_abs/style": 0.02,
            "signal/contrast_abs/task": 0.09,
            "signal/one_sided_abs/style": 0.8,
            "signal/one_sided_abs/task": 0.06,
            "drift/length": 1 - 0.05 * learnt,
            "drift/entropy": 1 - 0.3 * learnt,
            "staleness/mean": 0.0,
            "staleness/max": 0.0,
            "optim/grad_norm": 0.9 + abs(draws.gauss(0, 0.2)),
            "optim/loss": draws.gauss(0, 0.01),
            "scoring/wait_seconds": 0.2,
            "scoring/wait_share": abs(draws.gauss(0.09, 0.03)),
            "scoring/tokens_naive": 205_761,
            "scoring/tokens_computed": 57_613,
            "time/step_seconds": 2.1 + draws.gauss(0, 0.1),
            "time/tokens_per_second": 1_300 + draws.gauss(0, 60),
        }
    return row


def rollout(step: int, draws: random.Random) -> dict[str, Any]:
    """A chain worked line by line, whose log probs move as the paper describes: wording under any
    hint, working under the one that agrees."""
    tokens, digit, correct = [], draws.randrange(10), draws.random() < 0.5
    problem = str(digit)
    slip = None if correct else draws.randrange(4)
    truth = digit
    for line in range(4):
        sign, operand = draws.choice("+-*"), draws.randrange(10)
        problem += f" ; {sign} {operand}"
        tokens += [f"({line + 1})", draws.choice(STYLE[:4]), str(digit), sign, str(operand), "="]
        result = {"+": digit + operand, "-": digit - operand, "*": digit * operand}[sign] % 10
        truth = {"+": truth + operand, "-": truth - operand, "*": truth * operand}[sign] % 10
        digit = (result + draws.randrange(1, 10)) % 10 if line == slip else result
        tokens += [str(digit), "."]
        if draws.random() < 0.2:
            tokens += ["wait", "check", ":", str(digit)]
    tokens += ["answer", str(digit), "<|end|>"]
    count = len(tokens)
    noise = np.random.default_rng(draws.randrange(2**32))
    student = -noise.exponential(0.3, count)
    style = np.array([token in STYLE for token in tokens])
    result_token = np.array([index > 0 and tokens[index - 1] == "=" for index in range(count)])
    towards = np.where(result_token, noise.normal(0.9 if correct else -0.9, 0.5, count), 0)
    any_hint = np.where(style, noise.normal(-0.9, 0.6, count), noise.normal(0, 0.05, count))
    correct_hint = np.minimum(student + any_hint + towards, -1e-4)
    wrong = np.minimum(
        student + any_hint - 0.4 * towards + noise.normal(0, 0.03, (3, count)), -1e-4
    )
    e_ctr = contrast(correct_hint, wrong)
    advantage = 0.92 if correct else -0.92
    modulation = modulate(e_ctr, advantage)
    return {
        "step": step,
        "problem_id": f"chain/{draws.randrange(10_000)}",
        "problem": problem + " .",
        "answer": str(truth),
        "response_answer": str(digit),
        "correct": correct,
        "advantage": advantage,
        "tokens": tokens,
        "token_ids": [5 + sum(map(ord, token)) % 40 for token in tokens],
        "token_classes": [
            "style" if token in STYLE else "task" if token in TASK else "other" for token in tokens
        ],
        "student": student.tolist(),
        "correct_hint": correct_hint.tolist(),
        "wrong_hints": wrong.tolist(),
        "e_c": (correct_hint - student).tolist(),
        "e_ctr": e_ctr.tolist(),
        "modulated": modulation.advantage.tolist(),
        "selected": modulation.selected.tolist(),
        "hint_texts": {
            "correct": "(1) so 7 + 5 = 2 . answer 2",
            "wrong": [f"(1) then 7 + 5 = {digit} . answer {digit}" for digit in (3, 4, 1)],
        },
    }
