"""How many rollouts have hints, and what becomes of those that have none."""

from student_trainer.metrics.rollouts import RolloutFigures


def hint_metrics(rollouts: RolloutFigures) -> dict[str, float]:
    """Hints of the step's rollouts, for methods that read hints."""
    hinted = rollouts.wrong_hints >= 0
    metrics = {
        "hints/coverage": float(hinted.mean()),
        "hints/dropped": float((~rollouts.trained).sum()),
        "hints/plain": float((rollouts.trained & ~hinted).sum()),
    }
    if (rollouts.wrong_hints > 0).any():  # the method reads wrong hints
        metrics["hints/wrong_mean"] = float(rollouts.wrong_hints[hinted].mean())
    return metrics
