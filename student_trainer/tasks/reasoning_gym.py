"""Any task of reasoning-gym (procedurally generated problems) by its name and options."""

import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.tasks.base import Problem, Task, Verdict
from student_trainer.tasks.split import is_heldout, problem_digest
from student_trainer.verifiers.final_answer import ANSWER_FORMAT, FIND, FinalAnswer
from student_trainer.verifiers.knights_knaves import KnightsKnaves
from student_trainer.verifiers.worker import Worker, WorkerKilled

# Data sets are made in pieces: some prepare all of their problems when they are made, others take
# no index beyond their size.
_PIECE = 500
# Draws of one training problem that may fall on the held-out side, and draws in a row that may
# bring no new held-out problem, before the task is called too small.
_MAX_TRAIN_DRAWS = 64
_MAX_IDLE_HELDOUT_DRAWS = 1000
_GENERATION_SECONDS = 60.0
_SCORE_SECONDS = 2.0

# One process for all tasks; it starts at the first request.
_WORKER = Worker("student_trainer.tasks.reasoning_gym_worker")

_log = logging.getLogger(__name__)


class ReasoningGymTaskConfig(Config):
    """A reasoning-gym task."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    name: str
    """Name of the task in reasoning-gym, for example `knights_knaves` or `chain_sum`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of that task, for example `{min_terms: 2, max_terms: 2}`; the rest as it has them."""
    vary: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field(default_factory=dict)
    """Options that take several values by turns, for example `{n_people: [4, 5, 6]}`: problems come
    from all combinations in equal numbers."""
    seed: int = 0
    """Seed of the stream of training problems. The held-out set is the same for every seed."""
    heldout_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of all possible problems that only the held-out set may show."""
    final_answer: FinalAnswer = "boxed"
    """Where the final answer is: `boxed` (last `\\boxed{}`), `answer_tags` (last
    `<answer>…</answer>`), `last_number` or `whole_text`. The verifier of `knights_knaves`
    looks into the last box, else the last tags, else at the last assignment."""
    min_score: float = Field(default=1.0, gt=0, le=1)
    """Score by the task's own rules from which an answer is correct; below 1, answers that are
    right in part count. Without effect on `knights_knaves`."""

    def build(self) -> "ReasoningGymTask":
        """Make the task.

        Raises:
            InputError: No such task in reasoning-gym, or options that it refuses.
        """
        return ReasoningGymTask(self)


class ReasoningGymTask(Task):
    """Problems of one reasoning-gym data set, graded by the data set's own `score_answer`.

    A hash of the problem's text decides whether it is a held-out or a training problem. Problems
    are made and scored in a child process, see `reasoning_gym_worker`.
    """

    def __init__(self, config: ReasoningGymTaskConfig) -> None:
        if config.name == "knights_knaves" and config.final_answer == "last_number":
            raise InputError(
                "task.final_answer is last_number, but the answers of knights_knaves are no "
                "numbers: set it to boxed"
            )
        self.config = config
        self._variants = [
            {**config.options, **dict(zip(config.vary, values, strict=True))}
            for values in itertools.product(*config.vary.values())
        ]
        self.answer_format = ANSWER_FORMAT[config.final_answer]
        self._find_answer = FIND[config.final_answer]
        self._knights_knaves = KnightsKnaves() if config.name == "knights_knaves" else None
        for index in range(len(self._variants)):
            self._draw("check", index)

    def train_problem(self, index: int) -> Problem:
        """The training problem at `index` ≥ 0.

        Raises:
            InputError: The task is so small that all of its problems are held out.
        """
        for draw in range(_MAX_TRAIN_DRAWS):
            problem = self._draw(f"train/{self.config.seed}/{draw}", index)
            if not is_heldout(problem.text, self.config.heldout_fraction):
                return problem
        raise InputError(
            f"reasoning-gym's {self.config.name} has too few different problems with these "
            "task.options to hold any out: choose options that make it larger, or a lower "
            "task.heldout_fraction"
        )

    def heldout_problems(self, count: int) -> Sequence[Problem]:
        """The first `count` held-out problems, all different."""
        problems: dict[str, Problem] = {}
        index = last_new = 0
        while len(problems) < count:
            problem = self._draw("heldout", index)
            if is_heldout(problem.text, self.config.heldout_fraction) and (
                problems.setdefault(problem.id, problem) is problem
            ):
                last_new = index
            elif index - last_new > _MAX_IDLE_HELDOUT_DRAWS:
                raise InputError(
                    f"{count} held-out problems were asked for, but reasoning-gym's "
                    f"{self.config.name} with these task.options shows only {len(problems)}: ask "
                    "for fewer, choose options that make it larger, or a higher "
                    "task.heldout_fraction"
                )
            index += 1
        return list(problems.values())

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Grade one response; an answer whose scoring takes too long counts as wrong."""
        if self._knights_knaves is not None:
            roles = self._knights_knaves.find_answer(response)
            correct = roles is not None and self._knights_knaves.is_correct(roles, problem.answer)
            return Verdict(correct, roles)
        answer = self._find_answer(response)
        if answer is None:
            return Verdict(correct=False, answer=None)
        try:
            score = self._ask(_SCORE_SECONDS, problem.metadata, answer=answer)
        except WorkerKilled as killed:
            _log.warning("counted as wrong, too costly to score: %r (%s)", answer[:80], killed)
            return Verdict(correct=False, answer=answer)
        assert isinstance(score, float)
        return Verdict(score >= self.config.min_score, answer)

    def _draw(self, stream: str, index: int) -> Problem:
        """The problem at `index` of an endless stream, before the train/held-out split."""
        piece, position = divmod(index, _PIECE)
        # Seeds by hash: data sets of neighbouring seeds are each other shifted by one problem.
        digest = hashlib.sha256(f"{stream}/{piece}".encode()).digest()
        place = {
            "seed": int.from_bytes(digest[:4], "big") >> 1,
            "index": position,
            "options": self._variants[index % len(self._variants)],
        }
        try:
            made = self._ask(_GENERATION_SECONDS, place)
        except WorkerKilled as killed:
            raise InputError(
                f"reasoning-gym's {self.config.name} takes more than {_GENERATION_SECONDS:.0f} "
                f"seconds for one problem with these task.options ({killed}): choose easier ones"
            ) from killed
        assert isinstance(made, dict)
        return Problem(
            id=f"{self.config.name}:{problem_digest(made['text'])}", metadata=place, **made
        )

    def _ask(self, seconds: float, place: Mapping[str, object], **request: object) -> object:
        return _WORKER.ask(seconds, name=self.config.name, size=_PIECE, **place, **request)
