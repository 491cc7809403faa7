r"""Mathematics: the last `\boxed{}` compared with the reference by math-verify."""

import logging
import re

from student_trainer.verifiers.base import Verifier
from student_trainer.verifiers.final_answer import ANSWER_FORMAT, last_boxed
from student_trainer.verifiers.worker import Worker, WorkerKilled

_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")
# Longer "integers" than any answer has: the conversion takes time that grows with the square.
_MAX_INTEGER_LENGTH = 1000

# One process for all verifiers; it starts at the first request.
_WORKER = Worker("student_trainer.verifiers.symbolic_worker")

_log = logging.getLogger(__name__)


class BoxedMath(Verifier):
    """Compares mathematical answers.

    Equal strings and plain integers are decided on the spot. Everything else (fractions, decimals,
    units, sets, formulas) goes to math-verify, in a process of its own that is started at the first
    such answer and bounded in time: a comparison that takes too long counts as wrong.
    """

    answer_format = ANSWER_FORMAT["boxed"]

    def __init__(self, seconds: float = 5.0) -> None:
        """Set the processor seconds that one comparison may take."""
        self._seconds = seconds

    def find_answer(self, response: str) -> str | None:
        r"""What the last complete `\boxed{}` holds."""
        return last_boxed(response)

    def is_correct(self, answer: str, reference: str) -> bool:
        r"""Whether two expressions, in LaTeX or plain, with or without `\boxed{}`, are equal."""
        answer, reference = _bare(answer), _bare(reference)
        if answer == reference:
            return True
        integers = _integer(answer), _integer(reference)
        if None not in integers:
            return integers[0] == integers[1]
        try:
            equal = _WORKER.ask(self._seconds, answer=answer, reference=reference)
        except WorkerKilled as killed:
            _log.warning("counted as wrong, too costly to compare: %r (%s)", answer[:80], killed)
            return False
        return equal is True

    def check_reference(self, reference: str) -> None:
        """Refuse a reference without content."""
        if not _bare(reference):
            raise ValueError("the answer is empty")


def _bare(expression: str) -> str:
    r"""An expression without the `\boxed{}` or the dollar signs around it."""
    return (last_boxed(expression) or expression).strip().strip("$").strip()


def _integer(text: str) -> int | None:
    if len(text) > _MAX_INTEGER_LENGTH or not _INTEGER.fullmatch(text):
        return None
    return int(text.replace(",", ""))
