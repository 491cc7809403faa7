"""Where a run starts: anew in an empty folder, or from the newest checkpoint of its own."""

import logging
from pathlib import Path

from counterhint.errors import InputError
from student_trainer.checkpoints import latest_checkpoint
from student_trainer.recipe import Recipe, read_recipe_file

log = logging.getLogger(__name__)

MAY_CHANGE = frozenset(
    {
        "run_dir",
        "steps",
        "resume",
        "scoring",
        "checkpoint",
        "evaluation",
        "report",
        "metrics",
        "monitors",
    }
)
"""Keys of a recipe that a resumed run may have otherwise."""


def find_checkpoint(recipe: Recipe) -> Path | None:
    """The checkpoint to go on from; None for a new run.

    Raises:
        InputError: the folder holds a run that the recipe does not say to resume, or another one.
    """
    if recipe.run_dir.is_file():
        raise InputError(f"run_dir: {recipe.run_dir} is a file: name a folder")
    if recipe.resume:
        checkpoint = latest_checkpoint(recipe.run_dir / "checkpoints")
        if checkpoint is None:
            log.warning("no checkpoint in %s yet: the run starts over", recipe.run_dir)
        else:
            _check_same_run(recipe)
        return checkpoint
    if (recipe.run_dir / "metrics.jsonl").exists():
        raise InputError(
            f"run_dir: {recipe.run_dir} already holds a run: resume=true goes on with it, or "
            "choose another folder"
        )
    return None


def _check_same_run(recipe: Recipe) -> None:
    """Refuses to go on with a run by other rules than it began with.

    Raises:
        InputError: naming the keys that differ.
    """
    file = recipe.run_dir / "recipe.yaml"
    began = read_recipe_file(file)
    now = recipe.model_dump(mode="json")
    # Rollouts are not sampled ahead over a checkpoint, so with staleness its place is a rule too.
    fixed = {"checkpoint"} if recipe.rollouts.max_staleness else set()
    changed = sorted(
        key for key in now.keys() - (MAY_CHANGE - fixed) if began.get(key, now[key]) != now[key]
    )
    if changed:
        raise InputError(
            f"resume=true, but {', '.join(changed)} differ from {file}: give the values that the "
            "run began with, or another run_dir"
        )
