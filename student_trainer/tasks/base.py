"""What a task is: an endless stream of training problems, a held-out set and a verifier.

To add a task, write one file beside this one with a `Config` subclass (its `kind` is the name
used in recipes) and a `Task` subclass, and list the config in `student_trainer/tasks/__init__.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem."""

    id: str
    """Stable name of the problem: the same problem has the same id in every run."""
    text: str
    """The statement, as the model is shown it."""
    answer: str
    """The reference answer that the verifier compares with."""
    solution: str | None = None
    """A worked reference solution, where the data has one (the `gt_cot` hint)."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Whatever else the task's own verifier needs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one response."""

    correct: bool
    """Whether the final answer is right."""
    answer: str | None
    """The final answer that was found in the response; None when there is none to parse."""


class Task(ABC):
    """A source of verifiable problems."""

    answer_format: str
    """The line that tells the model how to give its final answer; empty when it needs none."""
    heldout_count: int | None = None
    """How many held-out problems there are; None where they are made as they are asked for."""

    @abstractmethod
    def train_problem(self, index: int) -> Problem:
        """The training problem at `index` ≥ 0; always the same; finite data starts over."""

    @abstractmethod
    def heldout_problems(self, count: int) -> Sequence[Problem]:
        """The first `count` problems of the held-out set, none of which training ever shows.

        Raises:
            InputError: the task has fewer than `count` held-out problems.
        """

    @abstractmethod
    def verify(self, problem: Problem, response: str) -> Verdict:
        """Grade one response (the decoded text without special tokens)."""

    def token_verdicts(self, problem: Problem, tokens: Sequence[str]) -> NDArray[np.int8] | None:
        """Which tokens of a response are right and which wrong, to measure what signals are worth.

        Args:
            problem: the problem.
            tokens: the response's T tokens as text.

        Returns:
            `[T]`: 1 for a right token, 0 for a wrong one, −1 for those that are neither; None when
            the task cannot tell.
        """
        return None
