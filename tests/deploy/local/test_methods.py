from pathlib import Path

import pytest

from counterhint.errors import InputError
from deploy.local.commands import REPOSITORY
from deploy.local.methods import method_file, method_names, named_methods, teacher_for

METHODS = ["grpo", "opd", "opsd", "opsd_ectr", "rlcsd", "rlsd", "rlsd_ectr", "sdpo", "srpo"]


def test_every_method_has_a_file() -> None:
    assert method_names() == METHODS


def test_methods_are_named_with_commas_or_all_at_once() -> None:
    assert named_methods(["grpo, opsd", "grpo", "srpo"]) == ["grpo", "opsd", "srpo"]
    assert named_methods(["all"]) == METHODS


def test_an_unknown_method_is_told_what_there_is() -> None:
    with pytest.raises(InputError, match=f"no method 'ppo': choose among {', '.join(METHODS)}"):
        named_methods(["grpo,ppo"])
    for nothing in ("", "grpo,"):
        with pytest.raises(InputError, match="no method ''"):
            named_methods([nothing])


def test_a_recipes_own_file_comes_before_the_papers(tmp_path: Path) -> None:
    recipe = tmp_path / "my.yaml"
    own = tmp_path / "my" / "methods" / "opsd.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert method_file("opsd", recipe) == own
    assert method_file("sdpo", recipe) == REPOSITORY / "recipes" / "methods" / "sdpo.yaml"


@pytest.mark.parametrize("method", METHODS)
def test_the_tiny_recipe_has_a_file_for_every_method(method: str) -> None:
    recipe = REPOSITORY / "recipes" / "tiny.yaml"
    assert method_file(method, recipe).parent == REPOSITORY / "recipes" / "tiny" / "methods"


def test_only_a_method_without_hints_needs_the_larger_teacher() -> None:
    assert teacher_for("opd", None) == "large"
    assert {teacher_for(method, None) for method in METHODS if method != "opd"} == {"self"}
    assert teacher_for(None, None) == "self"
    assert teacher_for("rlcsd", "large") == "large"
    with pytest.raises(InputError, match="opd cannot learn from --teacher self"):
        teacher_for("opd", "self")
