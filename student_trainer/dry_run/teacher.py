"""Checks of the teacher, where one answers."""

from counterhint import ScoringClient
from counterhint.errors import CounterhintError, InputError, PermissionDenied, Unauthenticated
from student_trainer.dry_run.checklist import Checklist
from student_trainer.losses import TeacherNeeds
from student_trainer.models import Student
from student_trainer.prompts import Prompts
from student_trainer.recipe import Recipe
from student_trainer.scoring import GroupScoring, StudentTokens, credentials_of

LONGEST_WAIT = 3.0
"""Most seconds that the teacher is waited for; fewer where `scoring.connect_timeout` says so."""


def check_teacher(
    recipe: Recipe,
    needs: TeacherNeeds,
    student: Student | None,
    prompts: Prompts | None,
    longest_context: int | None,
    checks: Checklist,
) -> None:
    """Compares what the method needs with a teacher that answers; that none does is a warning.

    Args:
        recipe: the recipe.
        needs: what the method asks for.
        student: with shapes only; None where it cannot be read.
        prompts: of the recipe's task; None where they cannot be made.
        longest_context: tokens that the teacher may have to read before a response, where known.
        checks: what was found is added.
    """
    if needs.reads == "nothing":
        checks.ok("teacher", f"{recipe.method.kind} needs none")
        return
    address, seconds = recipe.scoring.address, min(recipe.scoring.connect_timeout, LONGEST_WAIT)
    try:
        credentials = credentials_of(recipe.scoring)
        with ScoringClient(address, timeout=seconds, credentials=credentials) as client:
            teacher = client.get_teacher(seconds)
            if student is not None and prompts is not None:
                own = StudentTokens(student.tokenizer, student.fingerprint, student.end_ids())
                with checks.checking("teacher"):
                    GroupScoring(
                        client,
                        teacher,
                        prompts,
                        needs,
                        recipe.hints,
                        recipe.scoring,
                        own,
                        recipe.method.kind,
                    )
    except (InputError, PermissionDenied, Unauthenticated) as error:
        checks.problem("teacher", str(error))
        return
    except CounterhintError as error:
        checks.warn(
            "teacher",
            f"none answers at {address} yet ({error.message}), so its tokenizer and limits were "
            "not checked; start one with `counterhint teacher serve`",
        )
        return
    checks.ok(
        "teacher",
        f"{teacher.model_id} ({teacher.engine}): contexts and responses of "
        f"{teacher.max_model_len:,} tokens, top {teacher.max_top_k}",
    )
    if longest_context is None:
        return
    needed = longest_context + recipe.rollouts.max_new_tokens
    if needed > teacher.max_model_len:
        checks.warn(
            "teacher",
            f"the longest context and response may take {needed:,} tokens, but it takes "
            f"{teacher.max_model_len:,}: hints.too_long is {recipe.hints.too_long}",
        )
