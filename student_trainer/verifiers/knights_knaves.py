"""Knights and knaves: who tells the truth and who lies, compared as a map from name to role.

The order of the people, list markers, punctuation, letter case and the wording (`Zoey is a knight`,
`Zoey: knight`, `Zoey and Riley are knights`, `Zoey is not a knave`) make no difference.
"""

import re

from student_trainer.verifiers.base import Verifier
from student_trainer.verifiers.final_answer import last_answer_tags, last_boxed

ROLE_PAIRS = (
    ("knight", "knave"),
    ("pioneer", "laggard"),
    ("saint", "sinner"),
    ("hero", "villain"),
    ("angel", "devil"),
    ("altruist", "egoist"),
    ("sage", "fool"),
    ("truth-teller", "liar"),
)
"""The roles that puzzles use: (always tells the truth, always lies)."""

_OPPOSITE = {a: b for pair in ROLE_PAIRS for a, b in (pair, pair[::-1])}

# LaTeX, Markdown and JSON around an answer say nothing of who is what.
_MARKUP = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|quad|qquad|boxed)\b|\\.|[{}$*_`\"“”~]")
_NO_NAME = "a|all|an|and|are|both|conclusion|finally|hence|is|not|so|the|then|therefore|thus"
_NAME = rf"\b(?!(?:{_NO_NAME})\b)[^\W\d_][\w'’-]*"
# Bounded, so that a long list of words is not tried again from each of its words.
_NAMES = rf"{_NAME}(?:\s*,\s*{_NAME}){{0,15}}(?:\s*,?\s*(?:and|&)\s+{_NAME})?"
_ROLE = "|".join(_OPPOSITE)
_STATEMENT = re.compile(
    rf"(?P<hypothesis>\b(?:if|suppose|assume|assuming)\s+(?:that\s+)?(?:both\s+)?)?"
    rf"(?:(?P<names>{_NAMES})\s+(?:are|must\s+be)\s+(?:both\s+|all\s+)?"
    rf"|(?P<name>{_NAME})(?:\s+(?:is|must\s+be)\s+|\s*(?::|=|->|=>|→|\()\s*))"
    rf"(?P<negated>not\s+)?(?:an?\s+|the\s+)?(?P<role>{_ROLE})(?:e?s)?\b"
    # "a knight/knave" and "a knight or a knave" leave the question open.
    r"(?!\s*(?:/|or\b))",
    re.IGNORECASE,
)
_NAME_IN_LIST = re.compile(_NAME, re.IGNORECASE)
# What may stand between two statements of one final answer: punctuation, list markers, "and".
_BETWEEN = re.compile(r"(?:[\s,;.()\[\]•|&\d-]|\band\b|\bwhile\b|\bbut\b)*", re.IGNORECASE)


def parse_roles(text: str) -> dict[str, str] | None:
    """The role of everyone named in a text that is all answer, as {lower-case name: role}.

    Returns:
        None when the text names nobody's role or gives somebody two roles.
    """
    return _roles(list(_STATEMENT.finditer(_MARKUP.sub(" ", text))))


class KnightsKnaves(Verifier):
    """Compares assignments of roles to names.

    The final answer is what the last `\\boxed{}` holds, else the last `<answer>` tags, else the
    last run of statements with nothing but punctuation and "and" between them. An assignment that
    leaves somebody out, adds somebody or contradicts itself is wrong.
    """

    answer_format = (
        "Put your final answer within \\boxed{}, as in \\boxed{Ann is a knight, and Bob is a knave}"
        " but with the names and roles of the problem."
    )

    def find_answer(self, response: str) -> str | None:
        """The final assignment in the normal form `Ann is a knight, Bob is a knave` (by name)."""
        marked = last_boxed(response) or last_answer_tags(response)
        roles = parse_roles(marked) if marked else _roles(_last_run(response))
        if roles is None:
            return None
        return ", ".join(
            f"{name.title()} is {'an' if role[0] in 'aeiou' else 'a'} {role}"
            for name, role in sorted(roles.items())
        )

    def is_correct(self, answer: str, reference: str) -> bool:
        """Whether both give the same people the same roles."""
        roles = parse_roles(answer)
        return roles is not None and roles == parse_roles(reference)

    def check_reference(self, reference: str) -> None:
        """Refuse a reference that is no assignment or contradicts itself."""
        if parse_roles(reference) is None:
            raise ValueError(
                "the answer does not give each person one role, as in "
                "'Ann is a knight, and Bob is a knave'"
            )


def _roles(statements: list[re.Match[str]]) -> dict[str, str] | None:
    roles: dict[str, str] = {}
    for statement in statements:
        role = statement["role"].lower()
        if statement["negated"]:
            role = _OPPOSITE[role]
        for name in _NAME_IN_LIST.findall(statement["names"] or statement["name"]):
            if roles.setdefault(name.lower(), role) != role:
                return None
    return roles or None


def _last_run(response: str) -> list[re.Match[str]]:
    """The statements of the last run that is not a hypothesis ("Suppose Ann is a knight …")."""
    text = _MARKUP.sub(" ", response)
    run: list[re.Match[str]] = []
    for statement in reversed(list(_STATEMENT.finditer(text))):
        if run and not _BETWEEN.fullmatch(text, statement.end(), run[0].start()):
            break
        run.insert(0, statement)
        if statement["hypothesis"]:
            run = []
    return run
