"""Figures of many campaign runs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from tests.campaign.runner import CampaignResult


@dataclass(frozen=True)
class Figures:
    """What was run, what struck, and how it ended."""

    runs: int
    real_teacher_runs: int
    jobs: int
    """Distinct job ids."""
    calls: int
    """Times that a trainer sent one."""
    tries_again: int
    """Times that a client sent a job again by itself."""
    faults: dict[str, int]
    """By kind and process."""
    cancels: int
    outcomes: dict[str, int]
    """What calls were told."""
    final_states: dict[str, int]
    """Jobs by their state after the run."""
    violations: int
    seconds: float

    @classmethod
    def of(cls, results: Iterable[CampaignResult], seconds: float) -> Self:
        """The figures of runs that took so long together."""
        results = list(results)
        histories = [result.history for result in results]
        calls = [call for history in histories for call in history.calls]
        blows = [blow for history in histories for blow in history.blows]
        finals = [final for history in histories for final in history.finals.values()]
        return cls(
            runs=len(results),
            real_teacher_runs=sum(result.schedule.real_teacher for result in results),
            jobs=sum(len({call.job for call in history.calls}) for history in histories),
            calls=len(calls),
            tries_again=sum(len(call.resent) for call in calls),
            faults=_counted(f"{blow.kind} {blow.target.partition('-')[0]}" for blow in blows),
            cancels=sum(len(history.cancels) for history in histories),
            outcomes=_counted(str(call.told or "trainer killed") for call in calls),
            final_states=_counted(str(final.state) for final in finals),
            violations=sum(len(result.violations) for result in results),
            seconds=round(seconds, 1),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:18} {value}" for name, value in asdict(self).items())


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))
