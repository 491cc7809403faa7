"""Recipes: all that defines a run, as a YAML file.

Values are taken from `key=value` arguments > environment (`COUNTERHINT_TRAIN_OPTIMIZER__LR`) >
the file > what it includes > defaults. Paths are relative to the working directory, those under
`include` to the file that they stand in.
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
from student_trainer.importance import RolloutImportanceConfig
from student_trainer.losses import MethodConfig
from student_trainer.metrics import MetricsConfig
from student_trainer.models import StudentConfig
from student_trainer.monitors import MonitorsConfig
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
    rollout_is: RolloutImportanceConfig = RolloutImportanceConfig()
    """How the loss is corrected for what parts the sampler from the trainer."""
    entropy_bonus: float = Field(0.0, ge=0)
    """Weight of the student's mean entropy a token, which is subtracted from the loss."""
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
    metrics: MetricsConfig = MetricsConfig()
    """What is measured."""
    monitors: MonitorsConfig = MonitorsConfig()
    """Where the figures go."""

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        siblings = self.hints.correct == "self_rollout" and self.hints.without_hint == "drop"
        reads = self.method.build().needs.reads
        if reads == "both_hints" and siblings and self.rollouts.group_size < 3:
            raise ValueError(
                "rollouts.group_size must be 3 or more: a rollout needs a right and a wrong "
                "sibling to have hints"
            )
        rollouts = self.rollouts.prompts_per_step * self.rollouts.group_size
        if self.batch.updates_per_step > rollouts:
            raise ValueError(
                f"batch.updates_per_step is {self.batch.updates_per_step}, but a step has "
                f"{rollouts} rollouts: set it to that or less"
            )
        return self


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The content of a recipe file, laid over the files that it names under `include`.

    Later files of `include` are laid over earlier ones, key by key; a section of another `kind`
    takes the whole place of the old one.

    Raises:
        InputError: no such file, no YAML mapping, or files that include each other.
    """
    return _read_file(path, ())


def _read_file(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in [file.resolve() for file in including]:
        way = " → ".join(map(str, (*including, path)))
        raise InputError(f"recipes include each other: {way}; take one `include` out")
    if not path.is_file():
        named = f", which {including[-1]} includes" if including else ""
        raise InputError(
            f"no recipe {path}{named}: the recipes that come with Counterhint are in recipes/"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold `key: value` lines")
    included = content.pop("include", [])
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise InputError(f"{path}: include must be a list of files, for example [base.yaml]")
    below: dict[str, Any] = {}
    for name in included:
        below = _laid_over(below, _read_file(path.parent / name, (*including, path)))
    return _laid_over(below, content)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            same_kind = value.get("kind", old.get("kind")) == old.get("kind")
            merged[key] = _laid_over(old, value) if same_kind else value
        else:
            merged[key] = value
    return merged


def load_recipe(path: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: the YAML file. Its section `models`, which says how the models are made, belongs to
            `counterhint models make`.
        overrides: `key=value`, dotted keys, values in YAML. `include=FILE` lays another file over
            the recipe, beneath all other values given here.
        environment: of the process.

    Raises:
        InputError: a file, key or value that cannot be used.
    """
    content = read_recipe_file(path)
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
    for key, text, _ in values:
        if key == "include":
            content = _laid_over(content, read_recipe_file(Path(text)))
    values = [value for value in values if value[0] != "include"]
    # Kinds first: another kind drops the keys of the old one, not those given with it.
    for key, text, source in sorted(values, key=lambda value: not value[0].endswith(".kind")):
        _set(content, key, text, source)
    content.pop("models", None)
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
            message = problem["msg"].removeprefix("Value error, ")
            # Of a whole section the message names what is wrong.
            given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
            lines.append(f"  {key}: {message}{given}" if key else f"  {message}{given}")
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
