"""Figures of one step, a module for each concern: arrays in, figures by name out.

What does not apply to a run is absent, never NaN. Where a run has several ranks, `RolloutFigures`
and `TokenSignals` of all of them are joined at the first, which computes the figures.
"""

from student_trainer.metrics.auc import auc
from student_trainer.metrics.config import MetricsConfig
from student_trainer.metrics.drift import Drift, kl_estimates, kl_metrics
from student_trainer.metrics.hints import hint_metrics
from student_trainer.metrics.rollouts import RolloutFigures, rollout_metrics, staleness_metrics
from student_trainer.metrics.signals import TokenSignals, signal_metrics
from student_trainer.metrics.stopwatch import Stopwatch
from student_trainer.metrics.utilisation import Utilisation, utilisation

__all__ = [
    "Drift",
    "MetricsConfig",
    "RolloutFigures",
    "Stopwatch",
    "TokenSignals",
    "Utilisation",
    "auc",
    "hint_metrics",
    "kl_estimates",
    "kl_metrics",
    "rollout_metrics",
    "signal_metrics",
    "staleness_metrics",
    "utilisation",
]
