"""Run folders as the trainer writes them, with figures that are easy to check by hand."""

import json
from pathlib import Path
from typing import Any

import yaml

STEPS = 4


def write_run(
    folder: Path,
    *,
    method: str = "grpo",
    seed: int = 0,
    accuracy: float = 0.5,
    signals: dict[str, float] | None = None,
    **settings: Any,
) -> Path:
    """A run of `STEPS` steps of 2 prompts × 3 rollouts of 10 tokens.

    Args:
        folder: its folder.
        method: its method.
        seed: its seed.
        accuracy: held-out accuracy after training; it begins with 0.4.
        signals: metrics of every step.
        settings: further values of the recipe.
    """
    folder.mkdir(parents=True)
    recipe = {
        "run_dir": str(folder),
        "seed": seed,
        "steps": STEPS,
        "method": {"kind": method},
        "rollouts": {"prompts_per_step": 2, "group_size": 3},
        "optimizer": {"lr": 1e-3},
        **settings,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows: list[dict[str, float]] = [{"step": 0, "eval/accuracy": 0.4}]
    for step in range(1, STEPS + 1):
        row = {"step": step, "rollout/length": 10.0, "rollout/reward": 0.5, "rollout/entropy": 0.3}
        rows.append(row | (signals or {}))
    rows[-1]["eval/accuracy"] = accuracy
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {
        "method": method,
        "teacher": "student" if signals else None,
        "heldout_accuracy_before": 0.4,
        "heldout_accuracy_after": accuracy,
        "response_length_before": 10.0,
        "response_length_after": 11.0,
        "entropy_before": 0.3,
        "entropy_after": 0.2,
        "tokens_computed": 700 if signals else 0,
        "seconds_total": 12.5,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


SIGNALS = {
    "signal/one_sided_abs/style": 0.8,
    "signal/one_sided_abs/task": 0.05,
    "signal/one_sided_share/style": 0.75,
    "signal/auc_one_sided": 0.7,
}
BOTH_SIGNALS = SIGNALS | {
    "signal/contrast_abs/style": 0.02,
    "signal/contrast_abs/task": 0.1,
    "signal/contrast_share/style": 0.1,
    "signal/auc_contrast": 0.6,
}
