"""Which methods there are, the file of each that is laid over a recipe, and which teacher it gets.

A method's file sets all that belongs to it (loss, hints, refresh of the teacher's weights, gradient
clip). `recipes/methods` has one for each, with the values of its paper; a recipe may bring its own
beside it: `recipes/tiny/methods/opsd.yaml` for `recipes/tiny.yaml`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from counterhint.errors import InputError

TeacherName = Literal["self", "large"]
"""The student's own earlier weights, or the larger model with fixed weights."""
METHOD_FILES = Path(__file__).parents[2] / "recipes" / "methods"
_NEED_LARGER_TEACHER = frozenset({"opd"})


def method_names() -> list[str]:
    """Every method, by name."""
    return sorted(file.stem for file in METHOD_FILES.glob("*.yaml"))


def check_method(name: str) -> None:
    """Refuses a name that is no method's.

    Raises:
        InputError: listing the methods.
    """
    known = method_names()
    if name not in known:
        raise InputError(f"no method {name!r}: choose among {', '.join(known)}")


def named_methods(words: Sequence[str]) -> list[str]:
    """The methods that words name, separated by commas, each once; `all` for every one.

    Raises:
        InputError: no word, or a name that is no method's.
    """
    names = [name.strip() for word in words for name in word.split(",")]
    if names == ["all"]:
        return method_names()
    for name in names:
        check_method(name)
    return list(dict.fromkeys(names))


def method_file(method: str, recipe: Path) -> Path:
    """The file of a method that is laid over a recipe: the recipe's own, else the paper's."""
    own = recipe.with_suffix("") / "methods" / f"{method}.yaml"
    return own if own.is_file() else METHOD_FILES / f"{method}.yaml"


def teacher_for(method: str | None, chosen: TeacherName | None) -> TeacherName:
    """The teacher that scores for a method.

    Args:
        method: its name; None for a recipe's own, of which nothing is known here.
        chosen: what the user asked for; None chooses the larger model for methods that cannot do
            without it, and the student's own weights for all others.

    Raises:
        InputError: the method learns nothing from the teacher that was asked for.
    """
    if method not in _NEED_LARGER_TEACHER:
        return chosen or "self"
    if chosen == "self":
        raise InputError(
            f"{method} cannot learn from --teacher self: without hints the student's own weights "
            "say what the student says; give --teacher large, or leave it out"
        )
    return "large"
