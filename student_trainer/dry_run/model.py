"""Checks of the student's folder: everything but its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from counterhint.errors import InputError
from student_trainer.dry_run.checklist import Checklist
from student_trainer.forward import StudentForward
from student_trainer.hints import Hint
from student_trainer.losses import TeacherNeeds
from student_trainer.models import Student, load_shapes
from student_trainer.prompts import Prompts
from student_trainer.recipe import Recipe
from student_trainer.tasks.base import Problem


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tokens go where."""

    longest_prompt: int
    """Tokens of the longest prompt that was looked at."""
    longest_hinted: int
    """Tokens of the longest context that the teacher may have to read: problem, template and a hint
    as long as a rollout can be, or as the data's longest solution."""


def check_model(recipe: Recipe, checks: Checklist) -> Student | None:
    """Reads configuration and tokenizer and builds the model without weights.

    Returns:
        A student whose model has shapes only; None when the folder cannot be used.
    """
    try:
        student = load_shapes(recipe.student)
        StudentForward(
            student.model,
            recipe.rollouts.temperature,
            gradient_checkpointing=recipe.student.gradient_checkpointing,
        )
        end_ids = student.end_ids()
    except InputError as error:
        checks.problem("model", str(error))
        return None
    parameters = sum(parameter.numel() for parameter in student.model.parameters())
    trained = sum(parameter.numel() for parameter in student.trainable().values())
    adapter = f", of which {trained:,} are trained" if trained < parameters else ""
    checks.ok("model", f"{type(student.model).__name__}, {parameters:,} parameters{adapter}")
    vocabulary = student.model.get_output_embeddings().weight.shape[0]
    if len(student.tokenizer) > vocabulary:
        checks.problem(
            "tokenizer",
            f"it has {len(student.tokenizer):,} tokens, the model {vocabulary:,}: they do not "
            "belong together",
        )
    else:
        checks.ok(
            "tokenizer",
            f"fingerprint {student.fingerprint[:12]}, {len(student.tokenizer):,} tokens, responses "
            f"end at {_texts(student.tokenizer, end_ids)}",
        )
    if not any(recipe.student.model.glob("*.safetensors")):
        checks.problem(
            "weights",
            f"{recipe.student.model} holds no safetensors: put the model's weights beside its "
            "config.json",
        )
    return student


def _texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return ", ".join(str(tokenizer.convert_ids_to_tokens(int(token))) for token in ids)


def check_prompts(
    recipe: Recipe,
    student: Student,
    needs: TeacherNeeds,
    prompts: Prompts,
    train: Sequence[Problem],
    checks: Checklist,
) -> Limits | None:
    """Makes prompts with and without hints and compares them with the student's context.

    Returns:
        None when prompts cannot be made.
    """
    try:
        longest = max(len(prompts.plain(problem)) for problem in train)
        hinted = max(_hinted_tokens(recipe, prompts, problem) for problem in train)
    except InputError as error:
        checks.problem("prompts", str(error))
        return None
    new = recipe.rollouts.max_new_tokens
    limit = context_limit(student)
    text = f"the longest of {len(train)} has {longest:,} tokens; with a response {longest + new:,}"
    if limit is not None and longest + new > limit:
        checks.problem(
            "prompts", f"{text}, but the student takes {limit:,}: lower rollouts.max_new_tokens"
        )
    else:
        checks.ok("prompts", text + (f" of {limit:,}" if limit is not None else ""))
    if needs.student_top_k > (size := student.model.get_output_embeddings().weight.shape[0]):
        checks.problem(
            "support",
            f"{recipe.method.kind} compares distributions on the student's {needs.student_top_k} "
            f"most probable tokens, but it has {size}: set method.top_k_distill={size} or less",
        )
    shown = needs.reads in ("correct_hint", "both_hints")
    return Limits(longest, hinted if shown else longest)


def check_set_prompts(
    name: str,
    length: int,
    student: Student,
    prompts: Prompts,
    problems: Sequence[Problem],
    checks: Checklist,
) -> None:
    """Compares the prompts and responses of an evaluation set with the student's context."""
    label = f"prompts of {name}"
    with checks.checking(label):
        longest = max(len(prompts.plain(problem)) for problem in problems)
        limit = context_limit(student)
        if limit is not None and longest + length > limit:
            checks.problem(
                label,
                f"the longest of {longest:,} tokens and a response of {length:,} make "
                f"{longest + length:,}, but the student takes {limit:,}: lower the set's "
                "max_new_tokens",
            )


def context_limit(student: Student) -> int | None:
    """Tokens that the student takes; None where its configuration does not say."""
    limit: int | None = getattr(student.model.config, "max_position_embeddings", None)
    return limit


def _hinted_tokens(recipe: Recipe, prompts: Prompts, problem: Problem) -> int:
    """Tokens of a problem's hinted prompt with the longest hint that it may get."""
    own = Hint(problem.solution or problem.answer, problem.answer)
    context = len(prompts.hinted(problem, own))
    rollout = recipe.rollouts.max_new_tokens if prompts.hint_length(own) else 0
    longest = max(rollout, prompts.hint_length(own))
    if recipe.hints.max_tokens is not None:
        longest = min(longest, recipe.hints.max_tokens)
    return context - prompts.hint_length(own) + longest
