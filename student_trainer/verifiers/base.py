"""What a verifier is: it finds the final answer of a response and compares it with the reference.

To add a verifier, write one file beside this one with a `Verifier` subclass and list it in
`student_trainer/tasks/files.py`, which makes it available to data files.
"""

from abc import ABC, abstractmethod


class Verifier(ABC):
    """Finds and compares final answers."""

    answer_format: str
    """The line that tells the model how to give its final answer."""

    @abstractmethod
    def find_answer(self, response: str) -> str | None:
        """The final answer of a response in normal form; None when there is none to parse."""

    @abstractmethod
    def is_correct(self, answer: str, reference: str) -> bool:
        """Whether an answer that `find_answer` returned says the same as the reference."""

    @abstractmethod
    def check_reference(self, reference: str) -> None:
        """Refuse a reference answer that no response could match.

        Raises:
            ValueError: what is wrong with it, in one clause.
        """
