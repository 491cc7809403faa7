"""The models that a recipe starts from: made on the spot, as its `models` section says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.packaged_models import SmolLm2Config, make_smollm2
from student_trainer.prompts import PromptConfig
from student_trainer.recipe import describe_problems, read_recipe_file
from student_trainer.tasks import TaskConfig
from student_trainer.tasks.chain import ChainTask
from student_trainer.tiny.config import TinyModelsConfig
from student_trainer.tiny.make import make_tiny_models

Which = Literal["student", "teacher"]


class _Sections(Config):
    """What of a recipe decides its models."""

    models: Annotated[TinyModelsConfig | SmolLm2Config, Field(discriminator="kind")]
    """How the models are made."""
    task: TaskConfig
    """What they are to solve."""
    prompts: PromptConfig = PromptConfig()
    """How prompts are made."""


def make_models(recipe: Path, out: Path, which: Sequence[Which], *, retrain: bool) -> None:
    """Makes `out/student` and `out/teacher`, or one of them.

    Args:
        recipe: the recipe file.
        out: folder for the models.
        which: the models wanted.
        retrain: train the teacher anew even though one is shipped.

    Raises:
        InputError: the recipe does not say how its models are made, or they cannot be.
    """
    content = read_recipe_file(recipe)
    if "models" not in content:
        raise InputError(f"{recipe} has no section `models`: its models are not made but given")
    wanted = {key: content[key] for key in _Sections.model_fields if key in content}
    try:
        sections = _Sections.model_validate(wanted)
    except ValidationError as error:
        raise InputError(describe_problems(error, recipe, wanted)) from error
    if isinstance(sections.models, SmolLm2Config):
        if "teacher" in which:
            raise InputError(f"{recipe} has no larger teacher: use the student as its own teacher")
        make_smollm2(out)
        return
    task = sections.task.build()
    if not isinstance(task, ChainTask):
        raise InputError(f"{recipe}: models.kind tiny goes with task.kind chain only")
    make_tiny_models(
        sections.models,
        task,
        sections.prompts,
        out,
        which=which,
        retrain=retrain,
    )
