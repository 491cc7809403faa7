"""Samples and grades the sets of an evaluation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from counterhint.errors import InputError
from student_trainer.evaluation.config import EvaluationConfig, SamplingConfig
from student_trainer.evaluation.results import Evaluation, Evaluations, ProblemCounts
from student_trainer.groups import Group
from student_trainer.progress import Progress
from student_trainer.ranks import Ranks
from student_trainer.rollouts.base import SamplingRequest
from student_trainer.seeds import derive_seed
from student_trainer.tasks.base import Problem, Task


class GroupSource(Protocol):
    """What samples and grades groups of one task: a `RolloutGenerator`."""

    def groups(
        self, problems: Sequence[Problem], request: SamplingRequest
    ) -> Iterator[tuple[int, Group]]:
        """Yields each problem's index and its graded group."""


@dataclass(frozen=True, slots=True)
class _Set:
    config: SamplingConfig
    problems: Sequence[Problem]
    source: GroupSource


class Evaluator:
    """Evaluates a student on every set of a recipe.

    Tasks are built and problems drawn once, so that all evaluations of a run are of the same
    problems. Each rank samples its share of every set, in one request a set and with one seed for
    all ranks. With a sampler that seeds each prompt by itself the outcome is the same for any
    number of processes; with one that draws all prompts of a request from one stream, other samples
    are drawn of the same distributions.

    Args:
        config: the recipe's `evaluation` section.
        task: the recipe's task, whose held-out problems are the default set.
        source_for: makes what samples and grades the groups of a task.
        max_new_tokens: longest response in sets that do not say.
        max_rows: most responses that are sampled at the same time.
        ranks: the processes of the run.

    Raises:
        InputError: a set has too few problems, or has no end and does not say how many to take.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        task: Task,
        source_for: Callable[[Task], GroupSource],
        *,
        max_new_tokens: int,
        max_rows: int,
        ranks: Ranks,
    ) -> None:
        self._confidence = config.confidence
        self._max_new_tokens = max_new_tokens
        self._max_rows = max_rows
        self._ranks = ranks
        self._sets: dict[str, _Set] = {}
        for name in config.names:
            set_task, problems = open_set(config, name, task)
            self._sets[name] = _Set(config.sampling(name), problems, source_for(set_task))

    def run(self, seed: int, progress: Progress | None = None) -> Evaluations:
        """Samples and grades every set; collective.

        Args:
            seed: decides every draw: the same one draws the same samples from the same weights.
            progress: told how many problems of the set under way are done, on this rank.
        """
        return Evaluations(
            {
                name: self._evaluate(name, entry, derive_seed(seed, "evaluation", name), progress)
                for name, entry in self._sets.items()
            }
        )

    def _evaluate(self, name: str, entry: _Set, seed: int, progress: Progress | None) -> Evaluation:
        config = entry.config
        request = SamplingRequest(
            group_size=config.samples,
            max_new_tokens=config.max_new_tokens or self._max_new_tokens,
            temperature=config.temperature,
            draw_top_k=config.top_k,
            draw_top_p=config.top_p,
            seed=seed,
            max_rows=self._max_rows,
        )
        mine = self._ranks.share(entry.problems)
        counts: dict[int, ProblemCounts] = {}
        if mine:
            problems = [problem for _, problem in mine]
            for index, group in entry.source.groups(problems, request):
                counts[mine[index][0]] = _count(group)
                if progress is not None:
                    progress(f"evaluating {name}", len(counts), len(mine))
        everyone: dict[int, ProblemCounts] = {}
        for of_rank in self._ranks.gather(counts):
            everyone |= of_rank
        return Evaluation(
            tuple(everyone[index] for index in range(len(entry.problems))),
            config.pass_at,
            self._confidence,
        )


def open_set(
    config: EvaluationConfig, name: str, task: Task | None
) -> tuple[Task, Sequence[Problem]]:
    """The task and the problems of a set.

    Args:
        config: the recipe's `evaluation` section.
        name: the set's.
        task: the recipe's task; not used by other sets than the default one.

    Raises:
        InputError: its data cannot be used, or it has too few problems.
    """
    section = config.sets.get(name)
    try:
        set_task = task if section is None else section.task.build()
        if set_task is None:
            raise ValueError(f"{name} is of the recipe's task, which was not given")
        count = config.problems if section is None else section.problems
        count = set_task.heldout_count if count is None else count
        if count is None:
            raise InputError("problems is null, for all, but the task has no end: give a number")
        return set_task, set_task.heldout_problems(count)
    except InputError as error:
        place = "evaluation" if section is None else f"evaluation.sets.{name}"
        raise InputError(f"{place}: {error}") from error


def _count(group: Group) -> ProblemCounts:
    entropies = [rollout.entropies for rollout in group.rollouts]
    known = [float(values.sum()) for values in entropies if values is not None]
    return ProblemCounts(
        id=group.problem.id,
        samples=len(group.rollouts),
        correct=sum(rollout.verdict.correct for rollout in group.rollouts),
        truncated=sum(not rollout.finished for rollout in group.rollouts),
        tokens=sum(len(rollout.token_ids) for rollout in group.rollouts),
        entropy_sum=sum(known) if len(known) == len(entropies) else None,
    )
