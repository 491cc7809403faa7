"""The worker that compares two mathematical expressions with math-verify."""

import functools
from typing import Any

from math_verify import parse, verify

from student_trainer.verifiers.worker import serve


@functools.lru_cache(maxsize=256)
def _parse(expression: str) -> list[Any]:
    # The worker bounds the time of the whole request, so math-verify's own time-outs are off.
    return list(parse(f"\\boxed{{{expression}}}", parsing_timeout=None))


def equal(answer: str, reference: str) -> bool:
    """Whether math-verify finds two expressions, in LaTeX or plain, to be equal."""
    return bool(verify(_parse(reference), _parse(answer), timeout_seconds=None))


if __name__ == "__main__":
    serve(equal)
