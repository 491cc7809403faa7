"""Last-digit arithmetic chains: `7 (1) +5 (2) *3 (3) -8 .`, worked from left to right modulo 10.

Short enough for a model of 100,000 parameters, yet a solution holds both wording (how a step is
introduced) and working (the digits that must be right). The response ends in `answer` and a digit.
"""

import random
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.tasks.base import Problem, Task, Verdict
from student_trainer.tasks.chain_verdicts import value_verdicts
from student_trainer.tasks.split import is_heldout

OPERATORS = ("+", "-", "*")
STEP_WORDS = ("so", "then", "now", "next")
"""How a worked solution introduces its steps."""
MAX_OPERATIONS = 8
_FACTS = 10 * len(OPERATORS)  # (operator, operand) pairs that one operation can be
_HELDOUT_SHARE = 0.1
# Its multiples visit every problem: a prime other than 2, 3 and 5, the factors of their number.
_HELDOUT_STRIDE = 2_654_435_761
_ANSWER = re.compile(r"(?:^|\s)answer (\d)(?=\s|$)")


class ChainTaskConfig(Config):
    """Last-digit arithmetic chains, the task of the tiny recipe."""

    kind: Literal["chain"] = "chain"
    operations: int = Field(default=4, ge=1, le=MAX_OPERATIONS)
    """Operations in a chain: more of them make a right answer rarer."""
    seed: int = 0
    """Seed of the stream of training problems. The held-out set is the same for every seed."""

    def build(self) -> "ChainTask":
        """Make the task."""
        return ChainTask(self)


def apply(operator: str, left: int, right: int) -> int:
    """The last digit of `left operator right`, for example 3 for `4 - 1` and 7 for `1 - 4`."""
    match operator:
        case "+":
            return (left + right) % 10
        case "-":
            return (left - right) % 10
        case "*":
            return (left * right) % 10
    raise ValueError(f"operator {operator!r} is none of {', '.join(OPERATORS)}")


def parse_chain(text: str) -> tuple[int, list[tuple[str, int]]]:
    """Read a problem text back into its start digit and its (operator, operand) pairs."""
    start, *operations = text.split(" ")[:-1:2]
    return int(start), [(operation[0], int(operation[1:])) for operation in operations]


class ChainTask(Task):
    """Chains of a fixed number of operations; one problem in ten is held out."""

    answer_format = ""

    def __init__(self, config: ChainTaskConfig) -> None:
        self.config = config
        self._space = 10 * _FACTS**config.operations

    def train_problem(self, index: int) -> Problem:
        """The training problem at `index` ≥ 0, drawn evenly from those that are not held out."""
        draws = random.Random(f"chain/{self.config.seed}/{index}")
        while True:
            text = self._text(draws.randrange(self._space))
            if not is_heldout(text, _HELDOUT_SHARE):
                return _problem(text)

    def heldout_problems(self, count: int) -> Sequence[Problem]:
        """The first `count` held-out problems, all different."""
        problems: list[Problem] = []
        for step in range(self._space):
            if len(problems) == count:
                break
            text = self._text(step * _HELDOUT_STRIDE % self._space)
            if is_heldout(text, _HELDOUT_SHARE):
                problems.append(_problem(text))
        if len(problems) < count:
            raise InputError(
                f"{count} held-out problems were asked for, but chains of "
                f"{self.config.operations} operation(s) have only {len(problems)}: ask for fewer "
                "or set task.operations higher"
            )
        return problems

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Compare the digit after the last `answer` with the problem's."""
        answers = _ANSWER.findall(response)
        if not answers:
            return Verdict(correct=False, answer=None)
        return Verdict(correct=answers[-1] == problem.answer, answer=answers[-1])

    def token_verdicts(self, problem: Problem, tokens: Sequence[str]) -> NDArray[np.int8]:
        """Judges the value of each step, `=2`, by its operands as they are written."""
        return value_verdicts(tokens, apply)

    def _text(self, number: int) -> str:
        """The problem with this number among all chains of the configured length."""
        number, start = divmod(number, 10)
        operations = []
        for place in range(1, self.config.operations + 1):
            number, fact = divmod(number, _FACTS)
            operator, operand = divmod(fact, 10)
            operations.append(f" ({place}) {OPERATORS[operator]}{operand}")
        return f"{start}{''.join(operations)} ."


def _problem(text: str) -> Problem:
    value, operations = parse_chain(text)
    lines = []
    for number, (operator, operand) in enumerate(operations, start=1):
        result = apply(operator, value, operand)
        word = STEP_WORDS[(number - 1) % len(STEP_WORDS)]
        lines.append(f"{word} {value} ({number}) {operator}{operand} ={result} .")
        value = result
    solution = " ".join([*lines, f"answer {value}"])
    return Problem(id=f"chain:{text}", text=text, answer=str(value), solution=solution)
