"""Whose tokenizer makes what the teacher reads, and whether responses must be aligned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from counterhint import TeacherInfo, tokenizer_fingerprint
from counterhint.errors import InputError, TokenizerMismatch
from student_trainer.losses import TeacherNeeds
from student_trainer.prompts import Prompts
from student_trainer.scoring.alignment import Aligner
from student_trainer.scoring.config import ScoringConfig


@dataclass(frozen=True, slots=True)
class StudentTokens:
    """How the student writes."""

    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    end_ids: Sequence[int]
    """The tokens that end its responses."""


def teacher_side(
    config: ScoringConfig,
    teacher: TeacherInfo,
    prompts: Prompts,
    needs: TeacherNeeds,
    student: StudentTokens,
    method: str,
) -> tuple[Prompts, Aligner | None]:
    """Prompts for the teacher, and what aligns responses with a teacher of another tokenizer.

    Raises:
        TokenizerMismatch: the teacher has neither the student's tokenizer nor the one that is
            given as its own.
        InputError: the given tokenizer cannot be used, or the method compares distributions over a
            vocabulary, which two tokenizers do not share.
    """
    folder, wanted = config.teacher_tokenizer, teacher.tokenizer_fingerprint
    if folder is None:
        if student.fingerprint != wanted:
            raise TokenizerMismatch(
                student.fingerprint,
                wanted,
                "use a teacher with the student's tokenizer, or set scoring.teacher_tokenizer to "
                "a folder with the teacher's tokenizer, to align responses by their bytes",
            )
        return prompts, None
    tokenizer = _load(folder)
    given = tokenizer_fingerprint(tokenizer)
    if given != wanted:
        raise TokenizerMismatch(
            given,
            wanted,
            f"scoring.teacher_tokenizer ({folder}) must hold the tokenizer of the teacher that "
            "answers at scoring.address",
        )
    own_prompts = prompts.with_tokenizer(tokenizer)
    if given == student.fingerprint:  # only the chat template is another
        return own_prompts, None
    over_vocabulary = {
        "the teacher's top-k": needs.teacher_top_k,
        "the student's top-k": needs.student_top_k,
        "the teacher's entropy": needs.entropy,
    }
    if asked := [name for name, wanted in over_vocabulary.items() if wanted]:
        raise InputError(
            f"{method} needs {' and '.join(asked)}, which a teacher with another tokenizer "
            f"({wanted}, the student's is {student.fingerprint}) cannot give for the student's "
            "tokens: use a teacher with the student's tokenizer, or a method that needs log probs "
            "of sampled tokens alone, such as rlcsd"
        )
    return own_prompts, Aligner(student.tokenizer, student.end_ids, tokenizer, own_prompts.lead_in)


def _load(folder: Path) -> PreTrainedTokenizerBase:
    if not folder.is_dir():
        raise InputError(
            f"scoring.teacher_tokenizer: there is no folder {folder}; it must hold the teacher's "
            "tokenizer (tokenizer.json, tokenizer_config.json) with its chat template"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"scoring.teacher_tokenizer: no tokenizer can be loaded from {folder}: {error}"
        ) from error
    return tokenizer
