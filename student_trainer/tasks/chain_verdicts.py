"""Right and wrong tokens in a worked chain: each value is checked by arithmetic."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_LEFT = re.compile(r"\d")
_OPERATION = re.compile(r"([-+*])(\d)")
_VALUE = re.compile(r"=(\d)")


def value_verdicts(
    tokens: Sequence[str], apply: Callable[[str, int, int], int]
) -> NDArray[np.int8]:
    """Judges the tokens `=2` of `so 7 (1) +5 =2 . wait check =2 .`, by the operands as they are
    written, so that a value that is right after an earlier slip is right.

    Args:
        tokens: texts of T tokens.
        apply: the arithmetic, `(operator, left, right) → value`.

    Returns:
        `[T]`: 1 for a right value, 0 for a wrong one, −1 for all other tokens.
    """
    verdicts = np.full(len(tokens), -1, dtype=np.int8)
    left: int | None = None
    operation: tuple[str, int] | None = None
    for place, text in enumerate(map(str.strip, tokens)):
        if _LEFT.fullmatch(text):
            left, operation = int(text), None
        elif found := _OPERATION.fullmatch(text):
            operation = found[1], int(found[2])
        elif (found := _VALUE.fullmatch(text)) and left is not None and operation is not None:
            operator, right = operation
            verdicts[place] = int(found[1]) == apply(operator, left, right)
    return verdicts
