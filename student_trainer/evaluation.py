"""Held-out evaluation: mean@n, the mean accuracy of n samples a problem."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from student_trainer.config import Config


class EvaluationConfig(Config):
    """How the student is evaluated on held-out problems, before, during and after training."""

    problems: int = Field(256, ge=1)
    """Held-out problems."""
    samples: int = Field(1, ge=1)
    """n: samples a problem."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 takes the most probable tokens."""
    every: int | None = Field(None, ge=1)
    """Steps between two evaluations; None evaluates before and after training only."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of one evaluation."""

    accuracy: float
    """Mean over problems of the mean over samples."""
    standard_error: float
    """Of the accuracy, with problems as the independent units."""
    samples: int
    """Responses that were graded."""
    length: float
    """Mean length of a response, in tokens."""
    entropy: float
    """Mean entropy a token, in nats."""

    def row(self) -> dict[str, float]:
        """The metrics of this evaluation."""
        return {
            "eval/accuracy": self.accuracy,
            "eval/stderr": self.standard_error,
            "eval/samples": self.samples,
            "eval/length": self.length,
            "eval/entropy": self.entropy,
        }


@dataclass(frozen=True, slots=True)
class GradedSample:
    """What an evaluation keeps of one response."""

    correct: bool
    """Whether its answer is right."""
    length: int
    """Its tokens."""
    entropy_sum: float
    """Sum of its tokens' entropies, in nats."""


def summarize(graded: Sequence[Sequence[GradedSample]]) -> Evaluation:
    """The evaluation of n samples for each problem."""
    per_problem = np.array([np.mean([sample.correct for sample in group]) for group in graded])
    flat = [sample for group in graded for sample in group]
    tokens = sum(sample.length for sample in flat)
    spread = float(per_problem.std(ddof=1)) if len(per_problem) > 1 else 0.0
    return Evaluation(
        accuracy=float(per_problem.mean()),
        standard_error=spread / len(per_problem) ** 0.5,
        samples=len(flat),
        length=tokens / len(flat),
        entropy=sum(sample.entropy_sum for sample in flat) / tokens,
    )
