"""`summary.json`: what a run came to.

A run adds up `totals` step by step and keeps them in its checkpoints, so that a resumed run counts
what came before.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from student_trainer.evaluation import Evaluation


def evaluation_totals(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    """The totals that an evaluation `before` or `after` training stands for."""
    return {f"{prefix}/{key}": value for key, value in dataclasses.asdict(evaluation).items()}


def summarize_run(
    method: str, teacher: str | None, steps: int, seconds: float, totals: Mapping[str, float]
) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        method: the loss.
        teacher: the teacher's name; None when there was none.
        steps: training steps.
        seconds: of sampling, scoring, updating and evaluating.
        totals: sums over all steps: `before/…` and `after/…` evaluations, `stage/…` seconds,
            `scoring/…` counts and `training_seconds` (without evaluations).
    """
    stages = {
        key.removeprefix("stage/"): round(value, 3)
        for key, value in totals.items()
        if key.startswith("stage/")
    }
    return {
        "method": method,
        "teacher": teacher,
        "steps": steps,
        "heldout_accuracy_before": totals["before/accuracy"],
        "heldout_accuracy_after": totals["after/accuracy"],
        "heldout_stderr_before": totals["before/standard_error"],
        "heldout_stderr_after": totals["after/standard_error"],
        "heldout_samples": int(totals["after/samples"]),
        "response_length_before": totals["before/length"],
        "response_length_after": totals["after/length"],
        "entropy_before": totals["before/entropy"],
        "entropy_after": totals["after/entropy"],
        "seconds_total": round(seconds, 3),
        "seconds_by_stage": stages,
        "scoring_wait_share": stages.get("scoring_wait", 0.0) / totals["training_seconds"],
        "tokens_naive": int(totals.get("scoring/tokens_naive", 0)),
        "tokens_computed": int(totals.get("scoring/tokens_computed", 0)),
        "groups_scored": int(totals.get("scoring/groups", 0)),
    }
