"""Worked solutions for the tiny models to imitate.

A *demonstrator* is an author: what it believes about each fact (`7 * 8` ends in 6), how often it
checks itself, how it introduces its steps. The student's author holds misconceptions, so that the
student starts with something to unlearn; the teacher's author is nearly right.

Under a hint, an author adopts the hint's value for a step only where both are at the same operands,
and falls back on its own belief where they have parted. Two constructions teach exactly that:

- hints are garbled: some of their steps have a random wrong value, so that following the hint says
  more than knowing the facts does. Without this the model ignores hints.
- solutions are pushed off the hint's path: an early step gets a wrong value, which the model reads
  but is not trained to write. Without this the model copies hints blindly, and then a hint tells
  nothing about the step it stands at.
"""

import enum
import random
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import Field

from student_trainer.config import Config
from student_trainer.tasks.base import Problem
from student_trainer.tasks.chain import (
    MAX_OPERATIONS,
    OPERATORS,
    ChainTask,
    ChainTaskConfig,
    apply,
    is_sheet,
    parse_operations,
)
from student_trainer.tiny.tokenizer import HINTED_FILLERS, PLAIN_FILLERS


class DemonstratorConfig(Config):
    """What an author believes and how it writes."""

    fact_accuracy: float = Field(default=0.97, ge=0, le=1)
    """Share of the time that an ordinary fact is written right."""
    misconception_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the 300 facts (operator and two digits) that the author mostly gets wrong."""
    misconception_accuracy: float = Field(default=0.3, ge=0, le=1)
    """Share of the time that such a fact is written right."""
    misconception_fixed: float = Field(default=0.9, ge=0, le=1)
    """Share of its wrong values that are the same one every time; the others are any digit."""
    check_rate: float = Field(default=0.15, ge=0, le=1)
    """Share of steps that are checked (`wait check =4 .`) when no hint is given."""
    hinted_check_rate: float = Field(default=0.05, ge=0, le=1)
    """The same under a hint."""
    filler_habit: float = Field(default=0.8, ge=0, le=1)
    """Share of steps introduced by the fillers usual for the setting (with or without a hint); the
    others use those of the other setting. With `hinted_check_rate` this is the style shift of
    hinted writing, which large models have by nature and tiny ones only if it is shown to them."""
    hint_trust: float = Field(default=0.97, ge=0, le=1)
    """Share of steps that adopt the hint's value where its operands agree."""
    seed: int = 0
    """Seed of the misconceptions."""


class LessonConfig(Config):
    """One part of a warm-up: how many demonstrations, and how many of them carry a hint."""

    examples: int = Field(ge=1)
    """Demonstrations, each seen once."""
    hinted_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the demonstrations that carry a hint."""
    garbled_share: float = Field(default=0.4, ge=0, le=1)
    """Share of a hint's steps that are given a random wrong value."""
    wrong_step_share: float = Field(default=0.8, ge=0, le=1)
    """Share of the hinted demonstrations that are pushed off the hint's path."""
    operations: int | None = Field(default=None, ge=2, le=MAX_OPERATIONS)
    """Operations of the chains, give or take `length_spread`; the task's when None. Hints are
    learnt from fewer examples where chains are short."""
    length_spread: int = Field(default=2, ge=0)
    """Chains are up to this many operations shorter or longer. Where nothing stands at a fixed
    place, the model has to learn to copy operations by their number."""


class Role(enum.Enum):
    """What a token of a solution is."""

    WORDING = enum.auto()
    """How a step is introduced, punctuation."""
    WORKING = enum.auto()
    """Digits and operations: what must be right."""
    FORCED = enum.auto()
    """A value put in to leave the hint's path: to be read, not to be learnt."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a solution: `so 7 (1) +5 =2 .`, perhaps with `wait check =2 .` after it.

    The middle repeats the problem's words, so that copying it is easily learnt.
    """

    filler: str
    left: int
    operator: str
    operand: int
    value: int
    check: int | None
    """The value after checking, which the next step goes on from; None without a check."""
    forced: bool = False
    """Whether the value was put in to leave the hint's path."""

    @property
    def result(self) -> int:
        """The digit that the next step goes on from."""
        return self.value if self.check is None else self.check


@dataclass(frozen=True, slots=True)
class Solution:
    """A worked solution."""

    steps: tuple[Step, ...]
    sheet: bool = False
    """Whether its steps have left digits of their own, which then follow the step's number."""

    @property
    def answer(self) -> int:
        """The final answer."""
        return self.steps[-1].result

    def tokens(self) -> list[tuple[str, Role]]:
        """The solution's words, one a token (without the end token), and what each of them is."""
        tokens: list[tuple[str, Role]] = []
        for number, step in enumerate(self.steps, start=1):
            operation = f"{step.operator}{step.operand}"
            value_role = Role.FORCED if step.forced else Role.WORKING
            left, place = (str(step.left), Role.WORKING), (f"({number})", Role.WORDING)
            tokens += [
                (step.filler, Role.WORDING),
                *((place, left) if self.sheet else (left, place)),
                (operation, Role.WORKING),
                (f"={step.value}", value_role),
                (".", Role.WORDING),
            ]
            if step.check is not None:
                tokens += [("wait", Role.WORDING), ("check", Role.WORDING)]
                tokens += [(f"={step.check}", Role.WORKING), (".", Role.WORDING)]
        return [*tokens, ("answer", Role.WORDING), (str(self.answer), Role.WORKING)]

    def text(self) -> str:
        """The solution as a model would write it."""
        return " ".join(word for word, _ in self.tokens())


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One example of the warm-up."""

    problem: Problem
    """The problem."""
    hint: Solution | None
    """The solution shown with it, if any."""
    solution: Solution
    """What is to be learnt."""


class Demonstrator:
    """An author of worked solutions."""

    def __init__(self, config: DemonstratorConfig) -> None:
        self.config = config
        draws = random.Random(f"misconceptions/{config.seed}")
        facts = [(op, a, b) for op in OPERATORS for a in range(10) for b in range(10)]
        wrong = draws.sample(facts, round(config.misconception_share * len(facts)))
        self._misconceptions = {fact: _other_digit(apply(*fact), draws) for fact in wrong}

    def solve(
        self,
        problem: Problem,
        draws: random.Random,
        *,
        hint: Solution | None = None,
        wrong_steps: Collection[int] = (),
    ) -> Solution:
        """Work a problem.

        Args:
            problem: The problem.
            draws: Where chance comes from.
            hint: A solution of the same problem that the author sees.
            wrong_steps: Indices of steps that are given a wrong value.
        """
        habit, rare = PLAIN_FILLERS, HINTED_FILLERS
        check_rate = self.config.check_rate
        if hint is not None:
            habit, rare = rare, habit
            check_rate = self.config.hinted_check_rate
        steps: list[Step] = []
        for index, (given, operator, operand) in enumerate(parse_operations(problem.text)):
            left = steps[-1].result if given is None else given
            hinted = hint.steps[index] if hint is not None else None
            forced = index in wrong_steps
            if forced:
                right = hinted.value if hinted is not None else apply(operator, left, operand)
                value = _other_digit(right, draws)
            else:
                value = self._value(operator, left, operand, hinted, draws)
            check = None
            if not forced and draws.random() < check_rate:
                check = self._value(operator, left, operand, hinted, draws)
            fillers = habit if draws.random() < self.config.filler_habit else rare
            step = Step(draws.choice(fillers), left, operator, operand, value, check, forced)
            steps.append(step)
        return Solution(tuple(steps), is_sheet(problem.text))

    def _value(
        self, operator: str, left: int, operand: int, hinted: Step | None, draws: random.Random
    ) -> int:
        """The value written for one step."""
        agrees = hinted is not None and hinted.left == left
        if hinted is not None and agrees and draws.random() < self.config.hint_trust:
            return hinted.result
        right = apply(operator, left, operand)
        misconception = self._misconceptions.get((operator, left, operand))
        if misconception is None:
            if draws.random() < self.config.fact_accuracy:
                return right
        elif draws.random() < self.config.misconception_accuracy:
            return right
        elif draws.random() < self.config.misconception_fixed:
            return misconception
        return _other_digit(right, draws)


def demonstrations(
    author: Demonstrator,
    hint_author: Demonstrator,
    task: ChainTask,
    lesson: LessonConfig,
    *,
    seed: int,
) -> list[Demonstration]:
    """Write the examples of a warm-up, on training problems only.

    Args:
        author: Who writes the solutions.
        hint_author: Who writes the hints: the student's author, since hints are its rollouts.
        task: What the model is to solve.
        lesson: How many examples, and of which kinds.
        seed: Seed of everything drawn here.
    """
    operations = task.config.operations if lesson.operations is None else lesson.operations
    spread = lesson.length_spread
    lengths = range(max(2, operations - spread), min(MAX_OPERATIONS, operations + spread) + 1)
    layout = task.config.layout
    tasks = [ChainTaskConfig(operations=length, layout=layout).build() for length in lengths]
    examples = []
    for index in range(lesson.examples):
        draws = random.Random(f"demonstration/{seed}/{index}")
        problem = draws.choice(tasks).train_problem(draws.getrandbits(32))
        steps = range(len(parse_operations(problem.text)))
        hint: Solution | None = None
        wrong_steps: tuple[int, ...] = ()
        if draws.random() < lesson.hinted_share:
            garbled = [step for step in steps if draws.random() < lesson.garbled_share]
            hint = hint_author.solve(problem, draws, wrong_steps=garbled)
            if draws.random() < lesson.wrong_step_share:
                wrong_steps = (draws.choice(steps[:-1]),)
        solution = author.solve(problem, draws, hint=hint, wrong_steps=wrong_steps)
        examples.append(Demonstration(problem, hint, solution))
    return examples


def _other_digit(digit: int, draws: random.Random) -> int:
    """A digit other than this one."""
    return (digit + draws.randrange(1, 10)) % 10
