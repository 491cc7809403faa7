"""Last-digit arithmetic: chains, `7 (1) +5 (2) *3 .`, worked from left to right modulo 10, and
sheets, `(1) 7 +5 (2) 4 *3 .`, whose operations do not depend on each other.

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
_STEP = re.compile(r"\(\d+\)")
_RESULT = re.compile(r"=(\d)")
_ANSWER = re.compile(r"(?:^|\s)answer (\d)(?=\s|$)")


class ChainTaskConfig(Config):
    """Last-digit arithmetic chains, the task of the tiny recipe."""

    kind: Literal["chain"] = "chain"
    operations: int = Field(default=4, ge=1, le=MAX_OPERATIONS)
    """Operations in a chain: more of them make a right answer rarer."""
    layout: Literal["chain", "sheet"] = "chain"
    """`chain`: an operation goes on from the result before it, so hints of another path say nothing
    of it. `sheet`: each has a left digit of its own, and the answer is the last result."""
    graded: Literal["last", "all"] = "last"
    """What must be right in training: the last result, which lucky work may reach, or all."""
    heldout_graded: Literal["last", "all"] = "last"
    """The same in the held-out set."""
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


def parse_operations(text: str) -> list[tuple[int | None, str, int]]:
    """Read a problem text back into its operations: left digit, operator, right digit.

    The left digit is None where the operation goes on from the result before it.
    """
    words = text.split(" ")[:-1]
    lefts: list[int | None]
    if words[0].startswith("("):
        lefts, operations = [int(word) for word in words[1::3]], words[2::3]
    else:
        operations = words[2::2]
        lefts = [int(words[0]), *[None] * (len(operations) - 1)]
    return [(left, word[0], int(word[1:])) for left, word in zip(lefts, operations, strict=True)]


def is_sheet(text: str) -> bool:
    """Whether the operations of a problem text do not depend on each other."""
    return text.startswith("(")


class ChainTask(Task):
    """Chains of a fixed number of operations; one problem in ten is held out."""

    answer_format = ""

    def __init__(self, config: ChainTaskConfig) -> None:
        self.config = config
        digits = config.operations if config.layout == "sheet" else 1
        self._space = 10**digits * _FACTS**config.operations

    def train_problem(self, index: int) -> Problem:
        """The training problem at `index` ≥ 0, drawn evenly from those that are not held out."""
        draws = random.Random(f"chain/{self.config.seed}/{index}")
        while True:
            text = self._text(draws.randrange(self._space))
            if not is_heldout(text, _HELDOUT_SHARE):
                return _problem(text, self.config.graded)

    def heldout_problems(self, count: int) -> Sequence[Problem]:
        """The first `count` held-out problems, all different."""
        problems: list[Problem] = []
        for step in range(self._space):
            if len(problems) == count:
                break
            text = self._text(step * _HELDOUT_STRIDE % self._space)
            if is_heldout(text, _HELDOUT_SHARE):
                problems.append(_problem(text, self.config.heldout_graded))
        if len(problems) < count:
            raise InputError(
                f"{count} held-out problems were asked for, but chains of "
                f"{self.config.operations} operation(s) have only {len(problems)}: ask for fewer "
                "or set task.operations higher"
            )
        return problems

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Compare the digit after the last `answer` with the problem's.

        Where the problem asks for all results, those of the steps must be right as well; a step's
        result is its last value.
        """
        answers = _ANSWER.findall(response)
        if not answers:
            return Verdict(correct=False, answer=None)
        correct = answers[-1] == problem.answer
        if "results" in problem.metadata:
            stated = [_RESULT.findall(step)[-1:] for step in _STEP.split(response)[1:]]
            correct = correct and stated == problem.metadata["results"]
        return Verdict(correct=correct, answer=answers[-1])

    def token_verdicts(self, problem: Problem, tokens: Sequence[str]) -> NDArray[np.int8]:
        """Judges the value of each step, `=2`, by its operands as they are written."""
        return value_verdicts(tokens, apply)

    def _text(self, number: int) -> str:
        """The problem with this number among all chains of the configured length."""
        sheet = self.config.layout == "sheet"
        words = []
        if not sheet:
            number, start = divmod(number, 10)
            words.append(str(start))
        for place in range(1, self.config.operations + 1):
            words.append(f"({place})")
            number, fact = divmod(number, 10 * _FACTS if sheet else _FACTS)
            if sheet:
                fact, left = divmod(fact, 10)
                words.append(str(left))
            operator, operand = divmod(fact, 10)
            words.append(f"{OPERATORS[operator]}{operand}")
        return " ".join([*words, "."])


def _problem(text: str, graded: Literal["last", "all"]) -> Problem:
    result, results, lines = 0, [], []
    for number, (left, operator, operand) in enumerate(parse_operations(text), start=1):
        left = result if left is None else left
        result = apply(operator, left, operand)
        results.append([str(result)])
        place = f"({number}) {left}" if is_sheet(text) else f"{left} ({number})"
        word = STEP_WORDS[(number - 1) % len(STEP_WORDS)]
        lines.append(f"{word} {place} {operator}{operand} ={result} .")
    return Problem(
        id=f"chain:{text}",
        text=text,
        answer=str(result),
        solution=" ".join([*lines, f"answer {result}"]),
        metadata={"results": results} if graded == "all" else {},
    )
