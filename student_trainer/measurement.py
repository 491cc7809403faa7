"""What is measured of a step, over all ranks."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from counterhint.token_classes import TokenClasses, token_texts
from student_trainer.collection import StepRollouts
from student_trainer.losses import TeacherNeeds
from student_trainer.metrics import (
    Drift,
    RolloutFigures,
    TokenSignals,
    hint_metrics,
    kl_estimates,
    kl_metrics,
    rollout_metrics,
    signal_metrics,
    staleness_metrics,
    utilisation,
)
from student_trainer.models import Student
from student_trainer.ranks import Ranks
from student_trainer.recipe import Recipe
from student_trainer.scoring import ScoringCounts
from student_trainer.tasks.base import Task


class StepMeasurement:
    """Makes the figures of steps.

    Args:
        recipe: the run's.
        needs: what the method asks the teacher for.
        student: the model that is trained.
        task: may know which tokens of a response are right.
        ranks: the processes of the run.
        drift: compares with the run's start.
    """

    def __init__(
        self,
        recipe: Recipe,
        needs: TeacherNeeds,
        student: Student,
        task: Task,
        ranks: Ranks,
        drift: Drift,
    ) -> None:
        self._needs = needs
        self._task = task
        self._ranks = ranks
        self._drift = drift
        self.texts = token_texts(
            student.tokenizer, student.model.get_output_embeddings().weight.shape[0]
        )
        self.classes = TokenClasses.read(recipe.metrics.token_classes, self.texts)
        self._utilisation = utilisation(
            student.model, student.device, ranks.count, recipe.metrics.peak_tflops
        )

    def measure(
        self,
        rollouts: StepRollouts,
        counts: ScoringCounts,
        update: Mapping[str, float],
        update_seconds: float,
        start_log_probs: Sequence[NDArray[np.float32]] | None,
    ) -> dict[str, float]:
        """The figures of a step, on the first rank; nothing on the others. Collective.

        Args:
            rollouts: this rank's groups, with their rows.
            counts: what this rank's scoring took.
            update: the figures of the updates.
            update_seconds: that they took.
            start_log_probs: of each of this rank's rows under the weights that the run began
                with, `[T]` each; None where they were not taken.
        """
        groups = rollouts.groups
        rows = rollouts.rows()
        figures = RolloutFigures.of(
            [entry.group for entry in groups],
            [entry.hints for entry in groups],
            [entry.rows for entry in groups],
        )
        signals = TokenSignals.of(rows, self._verdicts(rollouts))
        estimates = [
            kl_estimates(row.rollout.log_probs, start)
            for row, start in zip(rows, start_log_probs or [], strict=start_log_probs is not None)
        ]
        parts = self._ranks.gather_at_first(
            (figures, signals, counts, estimates, [row.tokens for row in rows])
        )
        if not parts:
            return {}
        figures = RolloutFigures.joined([part[0] for part in parts])
        signals = TokenSignals.joined([part[1] for part in parts])
        metrics = {**rollout_metrics(figures), **update}
        metrics |= staleness_metrics(figures, rollouts.step) | self._drift.metrics(metrics)
        metrics |= kl_metrics([values for part in parts for values in part[3]])
        if self._needs.reads != "nothing":
            metrics |= ScoringCounts.total([part[2] for part in parts]).metrics()
            metrics |= signal_metrics(signals, self.classes)
        if self._needs.reads in ("correct_hint", "both_hints"):
            metrics |= hint_metrics(figures)
        if self._utilisation is not None:
            lengths = [length for part in parts for length in part[4]]
            metrics |= self._utilisation.metrics(lengths, update_seconds)
        return metrics

    def _verdicts(self, rollouts: StepRollouts) -> list[NDArray[np.int8] | None] | None:
        """What the task says of each token of each row; None where it cannot tell of any."""
        if type(self._task).token_verdicts is Task.token_verdicts:
            return None
        return [
            self._task.token_verdicts(
                entry.group.problem, [self.texts[token] for token in row.rollout.token_ids]
            )
            for entry in rollouts.groups
            for row in entry.rows.values()
        ]
