"""Checks a recipe as far as can be done without loading weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from counterhint.errors import InputError
from counterhint.token_classes import read_token_classes
from student_trainer.dry_run.checklist import Checklist
from student_trainer.dry_run.data import TaskData, check_data, check_solutions
from student_trainer.dry_run.model import check_model, check_prompts, check_set_prompts
from student_trainer.dry_run.resources import check_batches, check_disk, check_memory
from student_trainer.dry_run.teacher import check_teacher
from student_trainer.models import Student, find_device
from student_trainer.prompts import Prompts
from student_trainer.recipe import Recipe, load_recipe
from student_trainer.resume import find_checkpoint


def dry_run(path: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> Checklist:
    """Checks a recipe; arguments as for `load_recipe`.

    A check that fails does not keep the others from being made, as far as they do not build on it.
    """
    checks = Checklist()
    try:
        recipe = load_recipe(path, overrides, environment)
    except InputError as error:
        checks.problem("recipe", str(error))
        return checks
    needs = recipe.method.build().needs
    checks.ok("recipe", f"{path}: {recipe.method.kind}, {recipe.steps} steps, seed {recipe.seed}")
    with checks.checking("run folder"):
        checkpoint = find_checkpoint(recipe)
        checks.ok("run folder", f"{recipe.run_dir}, {_begin(checkpoint)}")
    with checks.checking("metrics"):
        read_token_classes(recipe.metrics.token_classes)
    with checks.checking("monitors"):
        recipe.monitors.build(recipe.run_dir)
    data = check_data(recipe, checks)
    if data is not None:
        check_solutions(recipe, needs, data.train, checks)
    student = check_model(recipe, checks)
    prompts = limits = None
    if student is not None and data is not None:
        with checks.checking("prompts"):
            prompts = Prompts(student.tokenizer, recipe.prompts, data.task.answer_format)
            limits = check_prompts(recipe, student, needs, prompts, data.train, checks)
            _check_sets(recipe, student, data, checks)
    if student is not None:
        longest = 0 if limits is None else limits.longest_prompt
        check_batches(recipe, longest, checks)
        check_disk(recipe, student, checks)
        with checks.checking("device"):
            device = find_device(recipe.student.device, None)
            checks.ok("device", str(device))
            check_memory(recipe, student, longest, device, checks)
    longest_context = None if limits is None else limits.longest_hinted
    check_teacher(recipe, needs, student, prompts, longest_context, checks)
    return checks


def _begin(checkpoint: Path | None) -> str:
    return "a new run" if checkpoint is None else f"goes on from {checkpoint.name}"


def _check_sets(recipe: Recipe, student: Student, data: TaskData, checks: Checklist) -> None:
    for name, (task, problems) in data.evaluated.items():
        prompts = Prompts(student.tokenizer, recipe.prompts, task.answer_format)
        length = recipe.evaluation.sampling(name).max_new_tokens
        check_set_prompts(
            name, length or recipe.rollouts.max_new_tokens, student, prompts, problems, checks
        )
