from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.recipe import load_recipe

RECIPE = """
run_dir: runs/x
steps: 5
task: {kind: chain}
student: {model: models/student}
method: {kind: rlcsd, tau: 0.1}
models: {kind: tiny}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_arguments_beat_environment_beats_file(recipe: Path) -> None:
    environment = {"COUNTERHINT_TRAIN_STEPS": "7", "COUNTERHINT_TRAIN_OPTIMIZER__LR": "0.25"}
    loaded = load_recipe(recipe, ["steps=9"], environment)
    assert (loaded.steps, loaded.optimizer.lr) == (9, 0.25)
    assert load_recipe(recipe, [], {}).steps == 5


def test_another_kind_drops_the_keys_of_the_old_one(recipe: Path) -> None:
    assert load_recipe(recipe, ["method.kind=grpo"], {}).method.kind == "grpo"
    kept = load_recipe(recipe, ["method.kind=rlcsd"], {}).method
    assert kept.kind == "rlcsd"
    assert kept.tau == 0.1


def test_values_given_with_another_kind_stay_in_any_order(recipe: Path) -> None:
    for overrides in (
        ["method.epsilon=0.1", "method.kind=grpo"],
        ["method.kind=grpo", "method.epsilon=0.1"],
    ):
        assert load_recipe(recipe, overrides, {}).method.epsilon == 0.1
    environment = {"COUNTERHINT_TRAIN_METHOD__EPSILON": "0.1"}
    assert load_recipe(recipe, ["method.kind=grpo"], environment).method.epsilon == 0.1


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes("steps: 5 # é".encode("latin-1"))
    with pytest.raises(InputError, match="is not YAML"):
        load_recipe(path, [], {})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", r"optimizer\.lrr: no such key"),
        ("method.tau=-1", r"method\.tau: .*greater than 0 \(got -1\)"),
        ("method.kind=rlcds", r"method: .*'rlcds' found.*'grpo', 'rlcsd'"),
        ("rollouts.group_size=2", "  rollouts.group_size must be 3 or more"),
        ("batch.updates_per_step=1000", "  batch.updates_per_step is 1000, but a step has"),
        ("optimizer.lr=.inf", "optimizer.lr: Input should be a finite number"),
        ("steps", "'steps' is not key=value"),
        ("steps.more=1", "steps is a value, not a section"),
        ("steps=[", "is not YAML"),
    ],
)
def test_each_mistake_names_the_key_and_the_remedy(
    recipe: Path, override: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(recipe, [override], {})


def test_missing_keys_and_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(InputError, match="no recipe"):
        load_recipe(path, [], {})
    path.write_text("steps: 3")
    with pytest.raises(InputError, match=r"run_dir: missing \(add it"):
        load_recipe(path, [], {})
    path.write_text("- a list")
    with pytest.raises(InputError, match="key: value"):
        load_recipe(path, [], {})


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_recipe_is_laid_over_what_it_includes(recipe: Path) -> None:
    (recipe.parent / "parts").mkdir()
    write(
        recipe.parent / "parts",
        base="include: [slow.yaml]\noptimizer: {grad_clip: 0.5}",
        slow="optimizer: {lr: 1.0e-9, warmup_steps: 3}",
        later="optimizer: {lr: 0.125, grad_clip: 0.25}\nsteps: 1000",
    )
    recipe.write_text(RECIPE + "include: [parts/base.yaml, parts/later.yaml]\n")
    loaded = load_recipe(recipe, ["optimizer.grad_clip=9"], {})
    assert loaded.steps == 5
    assert loaded.optimizer.model_dump(include={"lr", "warmup_steps", "grad_clip"}) == {
        "lr": 0.125,
        "warmup_steps": 3,
        "grad_clip": 9.0,
    }


def test_another_kind_takes_the_place_of_an_included_section(recipe: Path) -> None:
    write(recipe.parent, base="method: {kind: grpo, dual_clip: 5.0, epsilon: 0.1}")
    recipe.write_text(RECIPE + "include: [base.yaml]\n")
    method = load_recipe(recipe, [], {}).method
    assert (method.kind, method.epsilon) == ("rlcsd", 0.2)
    recipe.write_text(
        RECIPE.replace("kind: rlcsd, tau: 0.1", "epsilon: 0.3") + "include: [base.yaml]"
    )
    method = load_recipe(recipe, [], {}).method
    assert (method.kind, method.epsilon) == ("grpo", 0.3)


def test_a_file_can_be_laid_over_a_recipe_from_the_command_line(recipe: Path) -> None:
    write(recipe.parent, grpo="method: {kind: grpo}\nsteps: 7\nseed: 3")
    file = recipe.parent / "grpo.yaml"
    loaded = load_recipe(recipe, ["seed=4", f"include={file}"], {"COUNTERHINT_TRAIN_STEPS": "8"})
    assert (loaded.method.kind, loaded.steps, loaded.seed) == ("grpo", 8, 4)


def test_includes_of_no_use_are_named(recipe: Path) -> None:
    write(recipe.parent, a="include: [b.yaml]", b="include: [a.yaml]", c="include: a.yaml")
    for include, message in [
        ("[a.yaml]", r"include each other: .*recipe\.yaml → .*a\.yaml → .*b\.yaml → .*a\.yaml"),
        ("[recipe.yaml]", "include each other"),
        ("[d.yaml]", r"no recipe .*d\.yaml, which .*recipe\.yaml includes"),
        ("[c.yaml]", r"c\.yaml: include must be a list"),
    ]:
        recipe.write_text(f"{RECIPE}include: {include}\n")
        with pytest.raises(InputError, match=message):
            load_recipe(recipe, [], {})


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_along_can_be_read(path: Path) -> None:
    assert load_recipe(path, [], {}).steps > 0


def test_what_is_wrong_with_a_section_is_said_without_its_content(recipe: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(recipe, ["rollouts.group_size=2"], {})
    assert "Value error" not in str(caught.value)
    assert "{" not in str(caught.value)
