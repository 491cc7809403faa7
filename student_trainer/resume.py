"""Where a run starts: anew in an empty folder, or from the newest checkpoint of its own."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    there = next(folder for folder in (recipe.run_dir, *recipe.run_dir.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"run_dir: {recipe.run_dir} cannot be written: {there} is not yours")
    if recipe.resume:
        checkpoint = latest_checkpoint(recipe.run_dir / "checkpoints")
        if checkpoint is None:
            log.warning("no checkpoint in %s yet: the run starts over", recipe.run_dir)
        else:
            _check_same_run(recipe)
        return checkpoint
    metrics = recipe.run_dir / "metrics.jsonl"
    if metrics.is_file() and metrics.stat().st_size:  # one that failed at its start is none
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
    began, now = _flat(read_recipe_file(file)), _flat(recipe.model_dump(mode="json"))
    # Rollouts are not sampled ahead over a checkpoint, so with staleness its place is a rule too.
    fixed = {"checkpoint.every"} if recipe.rollouts.max_staleness else set()
    changed = [
        f"{key} ({value} → {now.get(key, 'otherwise')})"
        for key, value in began.items()  # a key that is newer than the run has its default
        if (key not in now or now[key] != value)
        and (key in fixed or key.partition(".")[0] not in MAY_CHANGE)
    ]
    if changed:
        raise InputError(
            f"resume=true, but the run began otherwise ({file}): {', '.join(changed)}; give the "
            "values that it began with, or another run_dir"
        )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a recipe by dotted key."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            values |= _flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values
