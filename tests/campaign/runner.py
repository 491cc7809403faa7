"""Campaign runs by seed: each in a folder of its own, checked."""

import shutil
import traceback
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import ScoringJob
from tests.campaign.checker import Violation, check
from tests.campaign.contents import scripted_scores
from tests.campaign.history import History
from tests.campaign.run import Scores, run_campaign
from tests.campaign.schedule import Schedule, make_schedule


@dataclass
class CampaignResult:
    """What came of a seed."""

    schedule: Schedule
    history: History
    violations: list[Violation] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.schedule.seed

    def report(self) -> str:
        """The violations and how to see them again."""
        lines = [
            f"seed {self.seed}: {len(self.violations)} violations; again: "
            f"python -m tests.campaign --seed {self.seed} --verbose",
            *(f"  {violation}" for violation in self.violations),
            str(self.schedule),
        ]
        return "\n".join(lines)

    def story(self) -> str:
        """What was seen, by time."""
        history, events = self.history, list[tuple[float, str]]()
        for call in history.calls:
            events.append((call.sent, f"{call.name} sends {call.job!r}, content {call.content}"))
            events += [(at, f"{call.name} will send again") for at in call.resent]
            if call.told_at is not None:
                events.append((call.told_at, f"{call.name} is told {call.told} {call.reason}"))
        for sighting in history.sightings:
            events.append((sighting.at, f"{sighting.job!r} is {sighting.state or 'unknown'}"))
        for cancel in history.cancels:
            events.append((cancel.asked, f"cancel {cancel.job or cancel.run}"))
            events.append((cancel.told, f"cancelled {cancel.job or cancel.run}: {cancel.state}"))
        for blow in history.blows:
            events.append((blow.begun, f"{blow.kind} {blow.target}"))
            events.append((blow.ended, f"after {blow.kind} {blow.target}"))
        return "\n".join(f"  {at:6.3f} s  {what}" for at, what in sorted(events))


class Runner:
    """Runs seeds.

    Args:
        folder: where runs have their folders; those without violations are removed.
        real_every: every so many seeds the teacher is the transformers engine; 0 for never.
    """

    def __init__(self, folder: Path, real_every: int) -> None:
        self._folder = folder
        self._real_every = real_every

    def is_real(self, seed: int) -> bool:
        """Whether a seed's teacher is the transformers engine."""
        return self._real_every > 0 and seed % self._real_every == self._real_every - 1

    async def run(self, seed: int) -> CampaignResult:
        """Runs a seed and checks its history."""
        schedule = make_schedule(seed, real_teacher=self.is_real(seed))
        folder = self._folder / str(seed)
        folder.mkdir(parents=True)
        model, scores = self._real if schedule.real_teacher else (None, scripted_scores)
        try:
            history = await run_campaign(schedule, folder, model, scores)
        except Exception:  # whatever it is, the seed must be told, and the others go on
            failure = Violation("the campaign itself runs", traceback.format_exc())
            return CampaignResult(schedule, History({}), [failure])
        result = CampaignResult(schedule, history, check(history))
        if not result.violations:
            shutil.rmtree(folder)
        return result

    @cached_property
    def _real(self) -> tuple[Path, Scores]:
        """A tiny model, and its scores by plain forward passes."""
        from tests.teacher_server.jobs import plain_log_probs, tokens_of_pairs
        from tests.tiny_models import write_tiny_llama

        path = self._folder / "model"
        model = write_tiny_llama(path)

        def scores(job: ScoringJob) -> NDArray[np.float32]:
            rows = plain_log_probs(model, job)
            chosen: NDArray[np.float32] = rows[np.arange(len(rows)), tokens_of_pairs(job)]
            return chosen

        return path, scores
