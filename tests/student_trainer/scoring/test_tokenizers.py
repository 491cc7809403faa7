import dataclasses
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from counterhint import TeacherInfo, tokenizer_fingerprint
from counterhint.errors import InputError, TokenizerMismatch
from student_trainer.losses import TeacherNeeds
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.scoring import ScoringConfig, StudentTokens
from student_trainer.scoring.alignment import Aligner
from student_trainer.scoring.tokenizers import teacher_side
from student_trainer.tasks.base import Problem
from tests.student_trainer.rollouts_of import NEEDS
from tests.student_trainer.scoring.teacher_in_thread import INFO
from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer

PROBLEM = Problem("p", "3 + 4 = ?", "7")
OWN = byte_level_tokenizer()
STUDENT = StudentTokens(OWN, tokenizer_fingerprint(OWN), [OWN.eos_token_id])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with another tokenizer: it knows one more token, and another chat template."""
    tokenizer = byte_level_tokenizer.__wrapped__()
    tokenizer.add_tokens(["=?"])
    tokenizer.chat_template = "[{{ messages[0].content }}]"
    tokenizer.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def fingerprint(folder: Path) -> str:
    return tokenizer_fingerprint(AutoTokenizer.from_pretrained(folder))


def side(
    of_teacher: str, folder: Path | None, needs: TeacherNeeds = NEEDS, method: str = "rlcsd"
) -> tuple[Prompts, Aligner | None]:
    teacher: TeacherInfo = dataclasses.replace(INFO, tokenizer_fingerprint=of_teacher)
    config = ScoringConfig(teacher_tokenizer=folder)
    prompts = Prompts(OWN, PromptConfig(), "")
    return teacher_side(config, teacher, prompts, needs, STUDENT, method)


def test_a_teacher_with_the_students_tokenizer_reads_the_students_prompts() -> None:
    prompts, aligner = side(STUDENT.fingerprint, None)
    assert prompts.tokenizer is OWN
    assert aligner is None


def test_another_tokenizer_makes_prompts_and_alignment(other: Path) -> None:
    prompts, aligner = side(fingerprint(other), other)
    assert prompts.tokenizer.decode(prompts.teacher_plain(PROBLEM)) == "[3 + 4 = ?]"
    assert aligner is not None
    response = aligner.align(np.array(OWN.encode("a =? b"), dtype=np.int32))
    assert len(response.token_ids) == 5
    assert response.aligned.tolist() == [True, True, False, False, True, True]


def test_the_same_tokenizer_with_another_chat_template_needs_no_alignment(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer.__wrapped__()
    tokenizer.chat_template = "[{{ messages[0].content }}]"
    tokenizer.save_pretrained(tmp_path)
    prompts, aligner = side(STUDENT.fingerprint, tmp_path)
    assert prompts.tokenizer.decode(prompts.teacher_plain(PROBLEM)) == "[3 + 4 = ?]"
    assert aligner is None


def test_another_tokenizer_that_is_not_given_is_refused() -> None:
    with pytest.raises(TokenizerMismatch, match=r"set scoring\.teacher_tokenizer") as caught:
        side("e" * 64, None)
    assert caught.value.reason == "TOKENIZER_MISMATCH"
    assert caught.value.details == {"requested": STUDENT.fingerprint, "teacher": "e" * 64}


def test_a_given_tokenizer_that_is_not_the_teachers_is_refused(other: Path) -> None:
    with pytest.raises(
        TokenizerMismatch, match=r"must hold the tokenizer of the teacher"
    ) as caught:
        side("e" * 64, other)
    assert caught.value.details == {"requested": fingerprint(other), "teacher": "e" * 64}


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"teacher_top_k": 4}, "the teacher's top-k"),
        ({"student_top_k": 4}, "the student's top-k"),
        ({"student_top_k": 4, "entropy": True}, "the student's top-k and the teacher's entropy"),
    ],
)
def test_methods_that_compare_distributions_are_refused_by_name(
    other: Path, changes: dict[str, int], asked: str
) -> None:
    needs = dataclasses.replace(NEEDS, **changes)
    with pytest.raises(InputError, match=rf"^sdpo needs {asked}, .*{STUDENT.fingerprint}"):
        side(fingerprint(other), other, needs, "sdpo")
    side(STUDENT.fingerprint, None, needs, "sdpo")


def test_a_folder_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"teacher_tokenizer: there is no folder .*nowhere"):
        side("e" * 64, tmp_path / "nowhere")


def test_a_folder_without_a_tokenizer_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"teacher_tokenizer: no tokenizer can be loaded"):
        side("e" * 64, tmp_path)
