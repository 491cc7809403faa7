"""Where the final answer of a response is found, and how the model is told to place it there."""

import re
from collections.abc import Callable
from typing import Literal

FinalAnswer = Literal["boxed", "answer_tags", "last_number", "whole_text"]
"""The places where a final answer can be looked for."""

_BOXED = "\\boxed{"
_BOX_DELIMITER = re.compile(r"\\boxed\{|\\.|[{}]", re.DOTALL)
_ANSWER_TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
# A sign belongs to the number only where no operand stands before it: 3-5 holds 3 and 5.
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
    r"(?:[eE][-+]?[0-9]+|/[0-9]+)?"
)


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{…}` holds, stripped; None if there is none or it is empty.

    Braces nest, escaped ones (`\{`) do not count, and a box that is never closed (a response cut
    off at the length limit) is passed over. "Last" is the box that opens last, so of two nested
    boxes it is the inner one.
    """
    contents_start: list[int | None] = []  # of every brace now open; None for one that is no box
    last: tuple[int, int] | None = None
    for match in _BOX_DELIMITER.finditer(text):
        match match.group():
            case "\\boxed{":
                contents_start.append(match.end())
            case "{":
                contents_start.append(None)
            case "}" if contents_start:
                start = contents_start.pop()
                if start is not None and (last is None or start > last[0]):
                    last = start, match.start()
    return (text[slice(*last)].strip() or None) if last else None


def last_answer_tags(text: str) -> str | None:
    """What stands between the last `<answer>` and its `</answer>`, stripped; None if nothing."""
    answers = _ANSWER_TAGS.findall(text)
    return (answers[-1].strip() or None) if answers else None


def last_number(text: str) -> str | None:
    """The last number of the text, for example `-4`, `2.5`, `3/4`, `1e9`, without digit groups."""
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None


def whole_text(text: str) -> str | None:
    """The text itself, stripped; None if nothing is left."""
    return text.strip() or None


FIND: dict[FinalAnswer, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "answer_tags": last_answer_tags,
    "last_number": last_number,
    "whole_text": whole_text,
}

ANSWER_FORMAT: dict[FinalAnswer, str] = {
    "boxed": "Put your final answer within \\boxed{}.",
    "answer_tags": "Give your final answer between <answer> and </answer>.",
    "last_number": "End with your final answer as a number.",
    "whole_text": "Reply with your final answer only.",
}
