"""What is evaluated, and how often."""

from typing import Self

from pydantic import Field, ValidationError, model_validator

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
    top_k: int = Field(0, ge=0)
    """Draws among this many most probable tokens only; 0 draws among all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Then draws among the fewest most probable tokens that together reach this probability only;
    1 draws among all."""
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


class EvaluationSet(Config):
    """A further set of problems. What it leaves out is as in the `evaluation` section itself."""

    task: TaskConfig
    """Where its problems come from; its held-out problems are used."""
    problems: int | None = Field(None, ge=1)
    """Problems, from the first on; None takes all of a finite set."""
    samples: int | None = Field(None, ge=1)
    """n: samples a problem."""
    temperature: float | None = Field(None, ge=0)
    """Sampling temperature."""
    top_k: int | None = Field(None, ge=0)
    """Draws among this many most probable tokens only; 0 draws among all."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Probability that the tokens drawn among must reach together; 1 draws among all."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Longest response."""
    pass_at: tuple[int, ...] | None = None
    """The k of each pass@k to estimate."""


class EvaluationConfig(SamplingConfig):
    """How the student is evaluated before, during and after training.

    `problems`, `samples` and their like are those of the set `heldout`: held-out problems of the
    recipe's own task.
    """

    problems: int | None = Field(256, ge=1)
    """Held-out problems; None takes all of a finite set."""
    every: int | None = Field(None, ge=1)
    """Steps between two evaluations; None evaluates before and after training only."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Level of the confidence intervals."""
    sets: dict[str, EvaluationSet] = Field(default_factory=dict)
    """Further sets by name."""

    @property
    def names(self) -> list[str]:
        """Names of all sets, the default one first."""
        return [DEFAULT_SET, *self.sets]

    def sampling(self, name: str) -> SamplingConfig:
        """How the set of that name is sampled."""
        fields = {key: getattr(self, key) for key in SamplingConfig.model_fields}
        if name != DEFAULT_SET:
            given = {key: getattr(self.sets[name], key) for key in fields}
            fields |= {key: value for key, value in given.items() if value is not None}
        return SamplingConfig.model_validate(fields)

    @model_validator(mode="after")
    def _sets(self) -> Self:
        for name in self.sets:
            if name == DEFAULT_SET or not name.replace("-", "_").isidentifier():
                raise ValueError(
                    f"a set cannot be called {name!r}: use letters, digits, - and _, and not "
                    f"{DEFAULT_SET}"
                )
            try:
                self.sampling(name)
            except ValidationError as error:
                raise ValueError(f"sets.{name}: {error.errors()[0]['msg']}") from error
        return self
