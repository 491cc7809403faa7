"""`summary.json`: what a run came to.

A run adds up `totals` step by step and keeps them in its checkpoints, so that a resumed run counts
what came before.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from student_trainer.evaluation import Evaluations, changes


def summarize_run(
    method: str,
    teacher: str | None,
    steps: int,
    seconds: float,
    totals: Mapping[str, float],
    before: Evaluations,
    after: Evaluations,
) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        method: the loss.
        teacher: the teacher's name; None when there was none.
        steps: training steps.
        seconds: of sampling, scoring, updating and evaluating.
        totals: sums over all steps: `stage/…` seconds, `scoring/…` counts and `training_seconds`
            (without evaluations).
        before: the evaluation before training.
        after: the evaluation after it. Sets of the same problems are compared problem by problem,
            as `changes`.
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
        "heldout_accuracy_before": before.heldout.accuracy.value,
        "heldout_accuracy_after": after.heldout.accuracy.value,
        "heldout_stderr_before": before.heldout.accuracy.stderr,
        "heldout_stderr_after": after.heldout.accuracy.stderr,
        "heldout_samples": after.heldout.samples,
        "response_length_before": before.heldout.length,
        "response_length_after": after.heldout.length,
        "entropy_before": before.heldout.entropy,
        "entropy_after": after.heldout.entropy,
        "changes": {
            name: {figure: dataclasses.asdict(change) for figure, change in figures.items()}
            for name, figures in changes(before, after).items()
        },
        "seconds_total": round(seconds, 3),
        "seconds_by_stage": stages,
        "scoring_wait_share": stages.get("scoring_wait", 0.0) / totals["training_seconds"],
        "tokens_naive": int(totals.get("scoring/tokens_naive", 0)),
        "tokens_computed": int(totals.get("scoring/tokens_computed", 0)),
        "groups_scored": int(totals.get("scoring/groups", 0)),
    }
