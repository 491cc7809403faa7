"""Checks a recipe as far as can be done without loading weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from counterhint import ScoringClient, TeacherInfo
from counterhint.errors import CounterhintError, InputError
from student_trainer.dry_run.checklist import Checklist
from student_trainer.dry_run.data import TaskData, check_data, check_solutions
from student_trainer.dry_run.model import check_model, check_prompts, check_set_prompts
from student_trainer.dry_run.resources import check_batches, check_disk, check_memory
from student_trainer.losses import TeacherNeeds
from student_trainer.metrics import read_token_classes
from student_trainer.models import Student, find_device
from student_trainer.prompts import Prompts
from student_trainer.recipe import Recipe, load_recipe
from student_trainer.resume import find_checkpoint
from student_trainer.tasks.base import Task

LONGEST_WAIT = 3.0
"""Most seconds that the teacher is waited for; fewer where `scoring.connect_timeout` says so."""


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
    longest_hinted = None
    if student is not None:
        longest_hinted = _check_student(recipe, student, needs, data, checks)
    _check_teacher(recipe, student, needs, longest_hinted, checks)
    return checks


def _begin(checkpoint: Path | None) -> str:
    return "a new run" if checkpoint is None else f"goes on from {checkpoint.name}"


def _check_student(
    recipe: Recipe,
    student: Student,
    needs: TeacherNeeds,
    data: TaskData | None,
    checks: Checklist,
) -> int | None:
    """Checks what needs tokenizer and shapes.

    Returns:
        Tokens of the longest context that the teacher may have to read; None when prompts cannot be
        made.
    """
    limits = None
    if data is not None:
        with checks.checking("prompts"):
            prompts = _prompts(recipe, student, data.task)
            limits = check_prompts(recipe, student, needs, prompts, data.train, checks)
            for name, (task, problems) in data.evaluated.items():
                length = recipe.evaluation.sampling(name).max_new_tokens
                check_set_prompts(
                    name,
                    length or recipe.rollouts.max_new_tokens,
                    student,
                    _prompts(recipe, student, task),
                    problems,
                    checks,
                )
    longest = 0 if limits is None else limits.longest_prompt
    check_batches(recipe, longest, checks)
    check_disk(recipe, student, checks)
    with checks.checking("device"):
        device = find_device(recipe.student.device, None)
        checks.ok("device", str(device))
        check_memory(recipe, student, longest, device, checks)
    return None if limits is None else limits.longest_hinted


def _prompts(recipe: Recipe, student: Student, task: Task) -> Prompts:
    return Prompts(student.tokenizer, recipe.prompts, task.answer_format)


def _check_teacher(
    recipe: Recipe,
    student: Student | None,
    needs: TeacherNeeds,
    longest_hinted: int | None,
    checks: Checklist,
) -> None:
    """Compares what the method needs with a teacher that answers."""
    if needs.reads == "nothing":
        checks.ok("teacher", f"{recipe.method.kind} needs none")
        return
    address, seconds = recipe.scoring.address, min(recipe.scoring.connect_timeout, LONGEST_WAIT)
    try:
        with ScoringClient(address, timeout=seconds) as client:
            teacher = client.get_teacher(seconds)
    except InputError as error:
        checks.problem("teacher", str(error))
        return
    except CounterhintError as error:
        checks.warn(
            "teacher",
            f"none answers at {address} yet ({error.message}), so its tokenizer and limits were "
            "not checked; start one with `counterhint teacher serve`",
        )
        return
    _compare(recipe, student, needs, longest_hinted, teacher, checks)


def _compare(
    recipe: Recipe,
    student: Student | None,
    needs: TeacherNeeds,
    longest_hinted: int | None,
    teacher: TeacherInfo,
    checks: Checklist,
) -> None:
    checks.ok(
        "teacher",
        f"{teacher.model_id} ({teacher.engine}): contexts and responses of "
        f"{teacher.max_model_len:,} tokens, top {teacher.max_top_k}",
    )
    if student is not None and student.fingerprint != teacher.tokenizer_fingerprint:
        checks.problem(
            "teacher",
            f"its tokenizer {teacher.tokenizer_fingerprint[:12]} is not the student's "
            f"{student.fingerprint[:12]}: serve a teacher with the student's tokenizer",
        )
    if needs.teacher_top_k > teacher.max_top_k:
        checks.problem(
            "teacher",
            f"{recipe.method.kind} needs its {needs.teacher_top_k} most probable tokens, but it "
            f"gives {teacher.max_top_k}: lower method.top_k_distill, or start it with a larger "
            "--max-top-k",
        )
    if longest_hinted is not None:
        needed = longest_hinted + recipe.rollouts.max_new_tokens
        if needed > teacher.max_model_len:
            checks.warn(
                "teacher",
                f"the longest hint and response may take {needed:,} tokens, but it takes "
                f"{teacher.max_model_len:,}: hints.too_long is {recipe.hints.too_long}",
            )
