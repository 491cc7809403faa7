"""What is evaluated, and how often."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from student_trainer.config import Config
from student_trainer.tasks import TaskConfig

DEFAULT_SET = "heldout"
"""Name of the set that every run has: held-out problems of its own task."""


class SamplingConfig(Config):
    """How a set of problems is sampled and what is estimated from the samples."""

    samples: int = Field(1, ge=1)
    """n: samples a problem; the accuracy is mean@n."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 takes the most probable tokens."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Longest response; None takes that of the rollouts."""
    pass_at: tuple[int, ...] = ()
    """The k of each pass@k to estimate, none above n."""

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        for k in self.pass_at:
            if not 1 <= k <= self.samples:
                raise ValueError(
                    f"pass_at holds {k}, but pass@k needs 1 to n samples and samples is "
                    f"{self.samples}: raise samples or take {k} out"
                )
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"at temperature 0 all {self.samples} samples of a problem are the same: set "
                "samples to 1 or raise the temperature"
            )
        return self


class EvaluationSet(SamplingConfig):
    """A further set of problems."""

    task: TaskConfig
    """Where its problems come from; its held-out problems are used."""
    problems: int | None = Field(None, ge=1)
    """Problems, from the first on; None takes all of a finite set."""


class EvaluationConfig(SamplingConfig):
    """How the student is evaluated before, during and after training.

    `problems`, `samples` and their like are those of the set `heldout`: held-out problems of the
    recipe's own task.
    """

    problems: int = Field(256, ge=1)
    """Held-out problems."""
    every: int | None = Field(None, ge=1)
    """Steps between two evaluations; None evaluates before and after training only."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Level of the confidence intervals."""
    sets: dict[str, EvaluationSet] = Field(default_factory=dict)
    """Further sets by name."""

    @field_validator("sets")
    @classmethod
    def _names(cls, sets: dict[str, EvaluationSet]) -> dict[str, EvaluationSet]:
        for name in sets:
            if name == DEFAULT_SET or not name.replace("-", "_").isidentifier():
                raise ValueError(
                    f"a set cannot be called {name!r}: use letters, digits, - and _, and not "
                    f"{DEFAULT_SET}"
                )
        return sets
