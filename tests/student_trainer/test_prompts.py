import copy
from pathlib import Path

import numpy as np
import pytest

from counterhint.errors import InputError
from counterhint.hints import builtin_templates
from student_trainer.hints import Hint
from student_trainer.models import Student
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.tasks.base import Problem
from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer

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


@pytest.mark.parametrize("template", builtin_templates())
def test_every_template_shows_both_sides_the_same_tokens_around_the_hint(template: str) -> None:
    prompts = Prompts(
        byte_level_tokenizer(), PromptConfig(hint_template=template), "Box the answer."
    )
    decode = prompts.tokenizer.decode
    right, wrong = Hint("~3 + 4 is 7~", "#7#"), Hint("~First 3.\n\nThen 9, so 12~", "#12#")
    shown = [str(decode(prompts.hinted(PROBLEM, hint))) for hint in (right, wrong)]
    frames = [
        text.replace(hint.text, "~~").replace(hint.answer, "##")
        for text, hint in zip(shown, (right, wrong), strict=True)
    ]
    assert frames[0] == frames[1]
    assert ("~~" in frames[0]) == (template != "answer_only")
    assert frames[0].count("##") == 1
    assert (
        frames[0].index(PROBLEM.text) < frames[0].index("##") < frames[0].index("Box the answer.")
    )


def test_answer_only_does_not_tell_solutions_with_one_answer_apart() -> None:
    prompts = Prompts(byte_level_tokenizer(), PromptConfig(hint_template="answer_only"), "")
    first, second = (prompts.hinted(PROBLEM, Hint(text, "7")) for text in ("3 + 4", "4 + 3"))
    assert np.array_equal(first, second)
    assert prompts.hint_length(Hint("3 + 4", "7")) == 0


def test_student_and_teacher_have_their_own_thinking_flag() -> None:
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.chat_template = "{{ messages[-1].content }}|{{ enable_thinking }}|"
    config = PromptConfig(student_thinking=False, teacher_thinking=True)
    prompts = Prompts(tokenizer, config, "")
    assert tokenizer.decode(prompts.plain(PROBLEM)).endswith("|False|")
    assert tokenizer.decode(prompts.teacher_plain(PROBLEM)).endswith("|True|")
    assert tokenizer.decode(prompts.hinted(PROBLEM, Hint("7", "7"))).endswith("|True|")


def test_an_end_token_that_also_stands_for_unknown_words_may_stand_in_a_template() -> None:
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    tokenizer.unk_token = tokenizer.eos_token
    tokenizer.chat_template = "<|end|>{{ messages[0].content }}"
    prompts = Prompts(tokenizer, PromptConfig(), "")
    assert prompts.plain(PROBLEM)[0] == tokenizer.eos_token_id
