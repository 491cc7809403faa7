from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.errors import InputError
from counterhint.hints import HintTemplate, TemplateError, builtin_templates, load_template

# Text that looks like what a template substitutes.
tricky = st.text(st.sampled_from("{}abc \n")) | st.sampled_from(
    ["{{hint}}", "{{problem}}", "{{answer}}", "{{answer_format}}", r"\g<0>", r"\1", "%s", "{0}"]
)
templates = st.sampled_from(builtin_templates()).map(load_template)


@given(template=templates, problem=tricky, hint=tricky, answer=tricky, answer_format=tricky)
def test_values_are_put_in_once_and_unchanged(
    template: HintTemplate, problem: str, hint: str, answer: str, answer_format: str
) -> None:
    values = {"problem": problem, "hint": hint, "answer": answer, "answer_format": answer_format}
    expected, rest = "", template.text
    while "{{" in rest:
        before, _, rest = rest.partition("{{")
        name, _, rest = rest.partition("}}")
        expected += before + values[name]
    assert template.render(**values) == (expected + rest).strip()


@given(template=templates, hints=st.tuples(tricky, tricky), answers=st.tuples(tricky, tricky))
def test_two_hints_get_the_same_frame_byte_for_byte(
    template: HintTemplate, hints: tuple[str, str], answers: tuple[str, str]
) -> None:
    def frame(hint: str, answer: str) -> list[str]:
        """The prompt's text around the hint, cut at marks that no text holds."""
        marked = template.render(
            problem="P", hint=f"\0{hint}\0", answer=f"\0{answer}\0", answer_format="F"
        )
        return marked.split("\0")[::2]

    assert frame(hints[0], answers[0]) == frame(hints[1], answers[1])


@pytest.mark.parametrize("name", builtin_templates())
def test_every_template_of_the_package_delimits_the_reference(name: str) -> None:
    prompt = load_template(name).render(
        problem="PROBLEM", hint="HINT", answer="ANSWER", answer_format="FORMAT"
    )
    opening, closing = prompt.index("<reference>"), prompt.index("</reference>")
    assert prompt.index("PROBLEM") < opening < prompt.index("ANSWER") < closing
    assert closing < prompt.index("FORMAT")
    assert ("HINT" in prompt) == (name != "answer_only")


def test_the_package_has_the_wrappings_of_the_method() -> None:
    assert set(builtin_templates()) >= {"neutral", "verbose", "terse", "answer_only"}


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("{{problem}} | {{hint}}\n", encoding="utf-8")
    template = load_template(str(file))
    assert template.render(problem="é", hint="ü", answer="", answer_format="") == "é | ü"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{{problem}} {{hint}} {{hnit}}", r"unknown placeholder \{\{hnit\}\}.*answer_format"),
        ("{{hint}}", "needs {{problem}}"),
        ("{{problem}} {{answer_format}}", "at least one of {{hint}} and {{answer}}"),
        ("", "needs {{problem}}"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(text: str, complaint: str) -> None:
    with pytest.raises(TemplateError, match=complaint):
        HintTemplate(text)


def test_a_template_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"no hint template 'nowhere\.txt'.*neutral"):
        load_template("nowhere.txt")


def test_a_template_that_is_not_utf_8_is_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("{{problem}} é {{hint}}".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8.*save it as UTF-8"):
        load_template(str(file))
