from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from counterhint.errors import InputError
from counterhint.token_classes import (
    DEFAULT_TOKEN_CLASSES,
    TokenClasses,
    read_token_classes,
    token_texts,
)
from student_trainer.tiny.tokenizer import HINTED_FILLERS, PLAIN_FILLERS, build_tokenizer

TINY = Path("recipes/tiny/token_classes.yaml")


def classes_of(path: Path, *texts: str) -> list[str]:
    classes = TokenClasses.read(path, texts)
    return [classes.names[one] for one in classes.class_ids]


def write(folder: Path, content: str) -> Path:
    path = folder / "classes.yaml"
    path.write_text(content)
    return path


def test_words_in_any_case_without_blanks_and_patterns_in_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "style: {words: [So]}\ntask: {patterns: ['[0-9]+', '[xy]']}")
    found = classes_of(path, "so", " SO", "\nso ", "12", " 12", "x", "X", "12a", "", "sol")
    assert found == ["style"] * 3 + ["task"] * 3 + ["other"] * 4


def test_the_first_class_that_matches_has_the_token(tmp_path: Path) -> None:
    path = write(tmp_path, "a: {patterns: ['x+']}\nb: {words: [x, y]}\nc: {words: [y]}")
    assert classes_of(path, "x", "xx", "y") == ["a", "a", "b"]


@pytest.mark.parametrize("text", ["Wait", " so", " Let", "therefore", "Hmm", " maybe", " First"])
def test_the_default_knows_style(text: str) -> None:
    assert classes_of(DEFAULT_TOKEN_CLASSES, text) == ["style"]


@pytest.mark.parametrize(
    "text",
    [
        "7",
        " 42",
        "3.5",
        "1,024",
        "+",
        " =",
        "\\frac",
        "frac",
        "}{",
        "^{",
        " x",
        "n",
        "≤",
        " knight",
    ],
)
def test_the_default_knows_task(text: str) -> None:
    assert classes_of(DEFAULT_TOKEN_CLASSES, text) == ["task"]


@pytest.mark.parametrize(
    "text", [".", ").", " and", " the", "<|im_end|>", "ther", "a", " of", "", "\n\n"]
)
def test_the_default_leaves_the_rest(text: str) -> None:
    assert classes_of(DEFAULT_TOKEN_CLASSES, text) == ["other"]


def test_the_tiny_vocabulary_is_sorted_by_its_own_file() -> None:
    tokenizer = build_tokenizer()
    texts = token_texts(tokenizer, len(tokenizer))
    classes = TokenClasses.read(TINY, texts)
    kinds = dict(zip(texts, (classes.names[one] for one in classes.class_ids), strict=True))
    assert {kinds[word] for word in (*PLAIN_FILLERS, *HINTED_FILLERS, "wait", "check")} == {"style"}
    assert {kinds[word] for word in ("0", "9", "+3", "*0", "-9", "=7")} == {"task"}
    assert {kinds[word] for word in ("(1)", ".", "answer", "<|end|>")} == {"other"}


def test_tokens_are_taken_as_text_whatever_marks_their_blanks() -> None:
    vocabulary = {"<unk>": 0, "▁so": 1, "▁7": 2, "so": 3}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    classes = TokenClasses.read(DEFAULT_TOKEN_CLASSES, token_texts(tokenizer, 6))
    kinds = [classes.names[one] for one in classes.of(np.array([1, 2, 3, 5], np.int32))]
    assert kinds == ["style", "task", "style", "other"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("style: [so]", "style"),
        ("style: {word: [so]}", "style.word"),
        ("style: {patterns: ['(']}", "not a regular expression"),
        ("other: {words: [so]}", "all remaining tokens"),
        ("- so", "must name classes"),
        ("a: [", "not YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_place(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(InputError, match=r"classes\.yaml") as raised:
        read_token_classes(write(tmp_path, content))
    assert said in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml cannot be read: No such file"):
        read_token_classes(tmp_path / "absent.yaml")
