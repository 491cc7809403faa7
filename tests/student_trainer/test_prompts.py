from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.hints import Hint
from student_trainer.models import Student
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.tasks.base import Problem

PROBLEM = Problem("p", "7 (1) +5 .", "2")


@pytest.fixture
def prompts(student: Student, tmp_path: Path) -> Prompts:
    template = tmp_path / "hint.txt"
    template.write_text("{{problem}} reference {{hint}} end")
    return Prompts(student.tokenizer, PromptConfig(hint_template=str(template)), "")


def test_plain_and_hinted_differ_in_the_hint_alone(student: Student, prompts: Prompts) -> None:
    decode = student.tokenizer.decode
    assert decode(prompts.plain(PROBLEM)) == "<|user|> 7 (1) +5 . <|assistant|>"
    hinted = prompts.hinted(PROBLEM, Hint("answer 3", "3"))
    assert decode(hinted) == "<|user|> 7 (1) +5 . reference answer 3 end <|assistant|>"


def test_correct_and_wrong_hints_share_every_other_token(prompts: Prompts) -> None:
    right, wrong = (prompts.hinted(PROBLEM, Hint(f"answer {n}", n)) for n in ("2", "3"))
    assert int((right != wrong).sum()) == 1


def test_words_outside_the_vocabulary_are_refused(prompts: Prompts) -> None:
    with pytest.raises(InputError, match="no token for part of 'seven"):
        prompts.plain(Problem("p", "seven (1) +5 .", "2"))


def test_a_tokenizer_without_chat_template_is_refused(student: Student) -> None:
    student.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        Prompts(student.tokenizer, PromptConfig(), "")
