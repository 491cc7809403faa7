"""Hint templates: how a problem and a hint become the text of a prompt.

The correct and the wrong hints of a group go through the same template byte for byte, so that the
contrast sees nothing but the hints' content (RLCSD, arXiv 2606.11709). A template is a text file
with the placeholders `{{problem}}`, `{{hint}}` (the hint's solution text), `{{answer}}` (its final
answer) and `{{answer_format}}`; those of this package are in `templates/`.
"""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from counterhint.errors import InputError

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_KNOWN = frozenset({"problem", "hint", "answer", "answer_format"})


class TemplateError(InputError):
    """A hint template that cannot be used."""


@dataclass(frozen=True, slots=True)
class HintTemplate:
    """A parsed hint template."""

    text: str
    """The template's text with its placeholders."""

    def __post_init__(self) -> None:
        found = set(_PLACEHOLDER.findall(self.text))
        if unknown := sorted(found - _KNOWN):
            raise TemplateError(
                f"the hint template has an unknown placeholder {{{{{unknown[0]}}}}}; "
                f"these exist: {', '.join(sorted(_KNOWN))}"
            )
        if "problem" not in found or not found & {"hint", "answer"}:
            raise TemplateError(
                "a hint template needs {{problem}} and at least one of {{hint}} and {{answer}}"
            )

    @property
    def shows_solution(self) -> bool:
        """Whether the hint's solution text is shown, and not its final answer alone."""
        return "{{hint}}" in self.text

    def render(self, *, problem: str, hint: str, answer: str, answer_format: str) -> str:
        """The prompt text. Placeholder-like text inside the values stays as it is."""
        values = {
            "problem": problem,
            "hint": hint,
            "answer": answer,
            "answer_format": answer_format,
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text).strip()


def question(problem: str, answer_format: str) -> str:
    """The prompt text without a hint: what the student is asked."""
    return f"{problem}\n\n{answer_format}".strip()


def builtin_templates() -> tuple[str, ...]:
    """Names of the templates in this package."""
    folder = resources.files("counterhint") / "templates"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir()))


def load_template(name_or_path: str) -> HintTemplate:
    """The template of that name in this package, or of that file.

    Raises:
        TemplateError: neither exists, or the text cannot be used.
    """
    if name_or_path in builtin_templates():
        source = resources.files("counterhint") / "templates" / f"{name_or_path}.txt"
        return HintTemplate(source.read_text(encoding="utf-8"))
    path = Path(name_or_path)
    if not path.is_file():
        raise TemplateError(
            f"no hint template {name_or_path!r}: give a file, or one of "
            f"{', '.join(builtin_templates())}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError(
            f"hint template {name_or_path} is not UTF-8 ({error}); save it as UTF-8"
        ) from error
    return HintTemplate(text)
