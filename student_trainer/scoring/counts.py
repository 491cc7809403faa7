"""What scoring took, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class ScoringCounts:
    """What scoring a group took, and what is missing."""

    groups: int = 0
    """Groups with something to score."""
    jobs: int = 0
    """Jobs sent."""
    tokens_naive: int = 0
    """Tokens that one full forward pass a pair would take."""
    tokens_computed: int = 0
    """Tokens that were computed."""
    rescored: int = 0
    """How often the group was scored again because its scores were of two weights revisions."""
    hints: int = 0
    """Distinct hints."""
    hints_cut: int = 0
    """How many of them were shortened."""
    hint_tokens: int = 0
    """Tokens of their solution texts, before anything was cut."""
    hint_tokens_cut: int = 0
    """Tokens that were cut from them."""
    hints_too_long: int = 0
    """Rollouts that lost their hints because one was too long."""
    unhinted: int = 0
    """Rollouts that have no hints, where the method reads hints."""
    tokens: int = 0
    """Response tokens of the rollouts to score."""
    tokens_aligned: int = 0
    """How many of them the teacher's tokens cover exactly: all, where it has the same tokenizer."""
    tokens_scored: int = 0
    """How many of them have numbers."""
    rollouts_missing: int = 0
    """Rollouts left out because the teacher gave no numbers at all for one of their pairs."""

    @classmethod
    def total(cls, counts: Sequence["ScoringCounts"]) -> "ScoringCounts":
        """The sum over groups."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: sum(getattr(one, name) for one in counts) for name in names})

    def totals(self) -> dict[str, float]:
        """What a run adds up over its steps, by the names of its metrics."""
        return {
            "scoring/groups": self.groups,
            "scoring/tokens_naive": self.tokens_naive,
            "scoring/tokens_computed": self.tokens_computed,
        }

    def metrics(self) -> dict[str, float]:
        """The metrics of a step: what was done in figures, what was cut or is missing in shares."""
        return {
            **self.totals(),
            "scoring/jobs": self.jobs,
            "scoring/rescored": self.rescored,
            "scoring/rollouts_missing": self.rollouts_missing,
            "scoring/tokens_aligned_share": _share(self.tokens_aligned, self.tokens),
            "scoring/tokens_scored_share": _share(self.tokens_scored, self.tokens),
            "hints/unhinted": self.unhinted,
            "hints/too_long": self.hints_too_long,
            "hints/cut_share": _share(self.hints_cut, self.hints),
            "hints/cut_token_share": _share(self.hint_tokens_cut, self.hint_tokens),
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
