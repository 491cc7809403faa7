"""What an evaluation found: the counts of each problem, and the estimates made from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from student_trainer.evaluation.config import DEFAULT_SET
from student_trainer.evaluation.estimates import (
    Estimate,
    estimate_difference,
    estimate_share,
    pass_at_k,
)


@dataclass(frozen=True, slots=True)
class ProblemCounts:
    """The samples of one problem, counted."""

    id: str
    """The problem's id."""
    samples: int
    """n: samples."""
    correct: int
    """Those with the right final answer."""
    truncated: int
    """Those that ran into the length limit."""
    tokens: int
    """Tokens of all samples."""
    entropy_sum: float | None
    """Sum of all tokens' entropies, in nats; None where the sampler gives none."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome on one set of problems."""

    problems: tuple[ProblemCounts, ...]
    """Counts of each problem, in the order of the set."""
    pass_at: tuple[int, ...] = ()
    """The k of each pass@k."""
    confidence: float = 0.95
    """Level of the intervals."""

    @property
    def accuracy(self) -> Estimate:
        """mean@n: the mean over problems of the share of right samples."""
        draws = max(problem.samples for problem in self.problems)
        return estimate_share(self._shares(), draws, self.confidence)

    @property
    def pass_at_k(self) -> dict[int, Estimate]:
        """pass@k for each k asked for."""
        draws = max(problem.samples for problem in self.problems)
        return {
            k: estimate_share(self._pass_shares(k), draws // k, self.confidence)
            for k in self.pass_at
        }

    @property
    def samples(self) -> int:
        """Responses that were graded."""
        return sum(problem.samples for problem in self.problems)

    @property
    def length(self) -> float:
        """Mean tokens of a response."""
        return sum(problem.tokens for problem in self.problems) / self.samples

    @property
    def truncated_share(self) -> float:
        """Share of the responses that ran into the length limit."""
        return sum(problem.truncated for problem in self.problems) / self.samples

    @property
    def entropy(self) -> float | None:
        """Mean entropy of a token, in nats; None where the sampler gives none."""
        sums = [p.entropy_sum for p in self.problems if p.entropy_sum is not None]
        if len(sums) < len(self.problems):
            return None
        return sum(sums) / sum(problem.tokens for problem in self.problems)

    def row(self) -> dict[str, float]:
        """Its figures by the names of metrics; what does not exist is left out."""
        accuracy = self.accuracy
        figures = {
            "accuracy": accuracy.value,
            "stderr": accuracy.stderr,
            "ci_low": accuracy.low,
            "ci_high": accuracy.high,
            "samples": self.samples,
            "length": self.length,
            "entropy": self.entropy,
            "truncated_share": self.truncated_share,
        }
        for k, estimate in self.pass_at_k.items():
            figures[f"pass@{k}"] = estimate.value
            figures[f"pass@{k}_ci_low"] = estimate.low
            figures[f"pass@{k}_ci_high"] = estimate.high
        return {name: value for name, value in figures.items() if value is not None}

    def change_from(self, before: Self) -> dict[str, Estimate]:
        """The change of `accuracy` and of each `pass@k` since an evaluation on the same problems.

        Raises:
            ValueError: the two are not of the same problems.
        """
        if [p.id for p in before.problems] != [p.id for p in self.problems]:
            raise ValueError("the two evaluations are not of the same problems")
        changes = {
            "accuracy": estimate_difference(before._shares(), self._shares(), self.confidence)
        }
        for k in self.pass_at:
            if all(k <= problem.samples for problem in before.problems):
                changes[f"pass@{k}"] = estimate_difference(
                    before._pass_shares(k), self._pass_shares(k), self.confidence
                )
        return changes

    def _shares(self) -> list[float]:
        return [problem.correct / problem.samples for problem in self.problems]

    def _pass_shares(self, k: int) -> list[float]:
        return [pass_at_k(problem.samples, problem.correct, k) for problem in self.problems]


@dataclass(frozen=True, slots=True)
class Evaluations:
    """The outcome on every set, at one moment of a run."""

    sets: Mapping[str, Evaluation]
    """By the set's name; the first is the default set."""

    @property
    def problem_ids(self) -> dict[str, list[str]]:
        """The ids of each set's problems, in their order."""
        return {name: [p.id for p in one.problems] for name, one in self.sets.items()}

    @property
    def heldout(self) -> Evaluation:
        """The outcome on the default set."""
        return self.sets[DEFAULT_SET]

    def row(self) -> dict[str, float]:
        """Metrics: `eval/accuracy` … of the default set, `eval/NAME/accuracy` … of the others."""
        return {
            f"eval/{figure}" if name == DEFAULT_SET else f"eval/{name}/{figure}": value
            for name, evaluation in self.sets.items()
            for figure, value in evaluation.row().items()
        }

    def record(self) -> dict[str, Any]:
        """As JSON: for every set its figures and the counts that they are made from."""
        return {
            "sets": {
                name: {
                    **evaluation.row(),
                    "confidence": evaluation.confidence,
                    "pass_at": list(evaluation.pass_at),
                    "problems": [dataclasses.asdict(p) for p in evaluation.problems],
                }
                for name, evaluation in self.sets.items()
            }
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Reads what `record` gave.

        Raises:
            KeyError, TypeError: it is no such record.
        """
        return cls(
            {
                name: Evaluation(
                    problems=tuple(ProblemCounts(**counts) for counts in content["problems"]),
                    pass_at=tuple(content["pass_at"]),
                    confidence=content["confidence"],
                )
                for name, content in record["sets"].items()
            }
        )


def comparable(before: Evaluations, problem_ids: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of the sets that were evaluated on these very problems, given by set."""
    earlier = before.problem_ids
    return [name for name, ids in problem_ids.items() if earlier.get(name) == list(ids)]


def changes(before: Evaluations, after: Evaluations) -> dict[str, dict[str, Estimate]]:
    """The paired changes of every set that both evaluated on the same problems."""
    return {
        name: after.sets[name].change_from(before.sets[name])
        for name in comparable(before, after.problem_ids)
    }
