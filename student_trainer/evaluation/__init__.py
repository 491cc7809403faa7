"""Evaluation: mean@n and pass@k with confidence intervals, on several sets of problems."""

from student_trainer.evaluation.config import (
    DEFAULT_SET,
    EvaluationConfig,
    EvaluationSet,
    SamplingConfig,
)
from student_trainer.evaluation.estimates import (
    Estimate,
    estimate_difference,
    estimate_share,
    pass_at_k,
)
from student_trainer.evaluation.evaluator import Evaluator, open_set
from student_trainer.evaluation.records import EvaluationLog, read_evaluations
from student_trainer.evaluation.results import Evaluation, Evaluations, ProblemCounts, changes
from student_trainer.evaluation.tables import evaluations_table, print_evaluations

__all__ = [
    "DEFAULT_SET",
    "Estimate",
    "Evaluation",
    "EvaluationConfig",
    "EvaluationLog",
    "EvaluationSet",
    "Evaluations",
    "Evaluator",
    "ProblemCounts",
    "SamplingConfig",
    "changes",
    "estimate_difference",
    "estimate_share",
    "evaluations_table",
    "open_set",
    "pass_at_k",
    "print_evaluations",
    "read_evaluations",
]
