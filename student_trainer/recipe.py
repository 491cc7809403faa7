"""Recipes: all that defines a run, as one YAML file.

Values are taken from `key=value` arguments > environment (`COUNTERHINT_TRAIN_OPTIMIZER__LR`) >
the file > defaults. Paths are relative to the working directory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from counterhint.errors import InputError
from student_trainer.batches import BatchConfig
from student_trainer.checkpoints import CheckpointConfig
from student_trainer.config import Config
from student_trainer.evaluation import EvaluationConfig
from student_trainer.hints import HintConfig
from student_trainer.losses import MethodConfig
from student_trainer.models import StudentConfig
from student_trainer.optimizer import OptimizerConfig
from student_trainer.prompts import PromptConfig
from student_trainer.rollout_log import RolloutLogConfig
from student_trainer.rollouts.config import RolloutConfig
from student_trainer.scoring import ScoringConfig
from student_trainer.tasks import TaskConfig
from student_trainer.teacher_weights import FixedTeacherConfig, TeacherRefreshConfig

ENVIRONMENT_PREFIX = "COUNTERHINT_TRAIN_"


class Recipe(Config):
    """A training run."""

    run_dir: Path
    """Folder that the run writes to."""
    steps: int = Field(ge=1)
    """Training steps."""
    seed: int = 0
    """Seed of everything random."""
    resume: bool = False
    """Goes on from the newest checkpoint in `run_dir`."""
    stop_after_unmixed_steps: int = Field(10, ge=1)
    """Ends the run when no group of this many steps in a row held right and wrong rollouts."""
    task: TaskConfig
    """The problems and their verifier."""
    student: StudentConfig
    """The model that is trained."""
    prompts: PromptConfig = PromptConfig()
    """How prompts are made."""
    rollouts: RolloutConfig = RolloutConfig()
    """How rollouts are sampled."""
    hints: HintConfig = HintConfig()
    """How hints are chosen."""
    method: MethodConfig
    """The loss."""
    scoring: ScoringConfig = ScoringConfig()
    """Where rollouts are scored."""
    teacher_refresh: TeacherRefreshConfig = FixedTeacherConfig()
    """Which weights the teacher scores with."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights are updated."""
    batch: BatchConfig = BatchConfig()
    """How a step's rollouts are cut into pieces."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How the student is evaluated."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the run's state is saved."""
    report: RolloutLogConfig = RolloutLogConfig()
    """What is kept for the report."""

    @model_validator(mode="after")
    def _groups_can_hold_hints(self) -> Self:
        siblings = self.hints.correct == "self_rollout" and self.hints.without_hint == "drop"
        if self.method.kind != "grpo" and siblings and self.rollouts.group_size < 3:
            raise ValueError(
                "rollouts.group_size must be 3 or more: a rollout needs a right and a wrong "
                "sibling to have hints"
            )
        return self


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The content of a recipe file.

    Raises:
        InputError: no such file, or no YAML mapping.
    """
    if not path.is_file():
        raise InputError(
            f"no recipe {path}: the recipes that come with Counterhint are in recipes/"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold `key: value` lines")
    return content


def load_recipe(path: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: the YAML file. Its section `models`, which says how the models are made, belongs to
            `counterhint models make`.
        overrides: `key=value`, dotted keys, values in YAML.
        environment: of the process.

    Raises:
        InputError: a file, key or value that cannot be used.
    """
    content = read_recipe_file(path)
    content.pop("models", None)
    values = []
    for name, text in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            values.append((key, text, f"environment variable {name}"))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise InputError(f"{override!r} is not key=value, for example optimizer.lr=1e-6")
        values.append((key, text, override))
    # Kinds first: another kind drops the keys of the old one, not those given with it.
    for key, text, source in sorted(values, key=lambda value: not value[0].endswith(".kind")):
        _set(content, key, text, source)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(describe_problems(error, path, content)) from error


def _set(content: dict[str, Any], dotted: str, text: str, source: str) -> None:
    *sections, last = dotted.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise InputError(f"{source}: {section} is a value, not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: the value is not YAML: {error}") from error
    if last == "kind" and place.get("kind", value) != value:
        # Another kind has other keys: those of the old kind make no sense with it.
        place.clear()
    place[last] = value


def describe_problems(error: ValidationError, path: Path, content: Mapping[str, Any]) -> str:
    """What is wrong with a recipe's content, a line for each key, with its remedy."""
    lines = [f"{path} cannot be used:"]
    for problem in error.errors():
        key = ".".join(_keys(problem["loc"], content))
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: no such key (remove it, or check its spelling)")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: missing (add it, or give {key}=… on the command line)")
        else:
            lines.append(f"  {key}: {problem['msg']} (got {problem['input']!r})")
    return "\n".join(lines)


def _keys(location: Sequence[str | int], content: Any) -> list[str]:
    """The keys of a location; pydantic adds the chosen kind of a union, which is no key."""
    keys = []
    for part in location:
        if isinstance(content, dict):
            if part not in content and part == content.get("kind"):
                continue
            content = content.get(part)
        keys.append(str(part))
    return keys
