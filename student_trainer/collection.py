"""A step's groups on their way: sampled, verified, sent to be scored, made into training rows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from counterhint import Weights
from student_trainer.batches import Row
from student_trainer.groups import Group
from student_trainer.hints import RolloutHints, choose_hints
from student_trainer.losses import TeacherNeeds
from student_trainer.progress import Progress
from student_trainer.ranks import Ranks
from student_trainer.recipe import Recipe
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.scoring import GroupScoring, PendingGroup, ScoringCounts
from student_trainer.seeds import derive_seed
from student_trainer.tasks.base import Task


@dataclass(slots=True)
class CollectedGroup:
    """One group of a step."""

    group: Group
    """The group."""
    hints: Sequence[RolloutHints | None]
    """The hints of each rollout; None where it has no legal ones, or the method reads none."""
    pending: PendingGroup | None
    """Its scores, under way; None where nothing is to be scored."""
    rows: dict[int, Row] = field(default_factory=dict)
    """Training rows, by the rollout's index in the group."""


@dataclass(slots=True)
class StepRollouts:
    """This rank's groups of a step."""

    step: int
    """The step that trains on them, from 0."""
    groups: list[CollectedGroup]
    """In the order of the step's problems."""

    def rows(self) -> list[Row]:
        """The training rows of all groups."""
        return [row for entry in self.groups for row in entry.rows.values()]


class Collector:
    """Samples groups and sends them to be scored, and makes rows of them when scores are there.

    Args:
        recipe: the run's.
        needs: what the method asks the teacher for.
        task: gives the problems.
        generator: samples and verifies.
        scoring: scores; None for a method that needs no teacher.
        ranks: the processes of the run; each takes its share of a step's problems.
        progress: told how far a stage is.
    """

    def __init__(
        self,
        recipe: Recipe,
        needs: TeacherNeeds,
        task: Task,
        generator: RolloutGenerator,
        scoring: GroupScoring | None,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self._recipe = recipe
        self._needs = needs
        self._task = task
        self._generator = generator
        self._scoring = scoring
        self._ranks = ranks
        self._progress = progress

    def sample(self, step: int, run_id: str, weights: Weights | None) -> StepRollouts:
        """Samples this rank's groups of a step; each is sent while the next are being sampled.

        Args:
            step: the step that is to train on them, from 0.
            run_id: names the run in the queue.
            weights: the teacher weights to score with; None for the server's own.
        """
        config = self._recipe.rollouts
        first = step * config.prompts_per_step
        problems = self._ranks.share(
            [self._task.train_problem(first + i) for i in range(config.prompts_per_step)]
        )
        if not problems:
            return StepRollouts(step, [])
        # The first rank draws as a single process does.
        seed = derive_seed(
            self._recipe.seed, "rollouts", step, *([self._ranks.rank] if self._ranks.rank else [])
        )
        request = config.request(seed, self._needs.student_top_k)
        collected: dict[int, CollectedGroup] = {}
        for place, group in self._generator.groups([problem for _, problem in problems], request):
            index = problems[place][0]
            collected[index] = self._send(step, index, group, run_id, weights)
            self._progress("sampling", len(collected), len(problems))
        return StepRollouts(step, [collected[index] for index, _ in problems])

    def _send(
        self, step: int, index: int, group: Group, run_id: str, weights: Weights | None
    ) -> CollectedGroup:
        if self._scoring is None:
            return CollectedGroup(group, [None] * len(group.rollouts), None)
        source = random.Random(derive_seed(self._recipe.seed, "hints", step, index))
        hints = choose_hints(group, self._recipe.hints, self._needs, source)
        pending = self._scoring.submit(
            run_id=run_id,
            name=f"step-{step}/group-{index}",
            group=group,
            hints=hints,
            weights=weights,
        )
        return CollectedGroup(group, hints, pending)

    def make_rows(self, rollouts: StepRollouts) -> ScoringCounts:
        """Waits for the scores of a step's groups and makes their training rows.

        Returns:
            What the scoring took, over this rank's groups.

        Raises:
            CounterhintError: a job ended with an error that trying again does not mend.
        """
        counts = []
        plain = self._scoring is None or self._recipe.hints.without_hint == "plain"
        for done, entry in enumerate(rollouts.groups):
            self._progress("scoring", done, len(rollouts.groups))
            scores = {}
            if entry.pending is not None:
                scored = entry.pending.result()
                scores, entry.hints = scored.scores, scored.hints
                counts.append(scored.counts)
            advantages = entry.group.advantages()
            entry.rows = {
                index: Row(
                    entry.group.prompt,
                    rollout,
                    float(advantages[index]),
                    scores.get(index),
                    rollout.log_probs,
                )
                for index, rollout in enumerate(entry.group.rollouts)
                if plain or index in scores
            }
        return ScoringCounts.total(counts)
