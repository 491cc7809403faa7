"""Tokenizers of two families, real ones: Mistral's SentencePiece vocabulary and Tekken's bytes."""

import os
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from counterhint.errors import InputError
from counterhint.token_bytes import TokenBytes
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.scoring import TeacherScores
from student_trainer.scoring.alignment import AlignedResponse, Aligner
from student_trainer.tiny.tokenizer import build_tokenizer
from tests.student_trainer.scoring.tokenizers import (
    byte_level_tokenizer,
    sentencepiece_tokenizer,
    smollm2_tokenizer,
    tekken_tokenizer,
)

Make = Callable[[], PreTrainedTokenizerBase]
MAKERS = {"sentencepiece": sentencepiece_tokenizer, "tekken": tekken_tokenizer}
if os.environ.get("COUNTERHINT_TEST_SMOLLM2"):  # its GGUF file takes a quarter of a minute to read
    MAKERS["smollm2"] = smollm2_tokenizer
PAIRS = [(student, teacher) for student in MAKERS for teacher in MAKERS if student != teacher]

tokenizers = pytest.mark.parametrize("name", MAKERS)
both_ways = pytest.mark.parametrize(("student", "teacher"), PAIRS)
texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("ab 1.\n\t{é🙂\\", max_size=40)

SOLUTION = (
    "Let x² + 3x − 10 = 0, so (x + 5)(x − 2) = 0.\n\nThe naïve root is x = 2 🙂; the largest\tvalue"
    " is therefore\n\\boxed{2}."
)


@cache
def aligner(student: str, teacher: str, lead_in: str = "") -> Aligner:
    ours = MAKERS[student]()
    return Aligner(ours, [ours.eos_token_id], MAKERS[teacher](), lead_in)


@cache
def token_bytes(name: str) -> TokenBytes:
    return TokenBytes(MAKERS[name]())


def encode(name: str, text: str, ended: bool = False) -> NDArray[np.int32]:
    tokenizer = MAKERS[name]()
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return np.array(ids + [tokenizer.eos_token_id] * ended, dtype=np.int32)


def random_scores(response: AlignedResponse) -> TeacherScores:
    size = len(response.token_ids)
    values = np.random.default_rng(size).uniform(-9, 0, (4, size)).astype(np.float32)
    return TeacherScores(np.ones(size, bool), values[0], values[1:])


@tokenizers
@given(text=texts)
def test_tokens_stand_for_the_very_bytes_of_a_text(name: str, text: str) -> None:
    ids = encode(name, text)
    table = token_bytes(name)
    written = table.join(ids).tobytes()
    # SentencePiece puts a blank in front of a text.
    assert written in (text.encode(), b" " + text.encode())
    assert table.lengths(ids).sum() == len(written)
    single = [table.join(ids[i : i + 1]).tobytes() for i in range(len(ids))]
    assert b"".join(single) == written


@tokenizers
def test_special_tokens_and_unknown_ids_have_no_bytes(name: str) -> None:
    tokenizer = MAKERS[name]()
    ids = np.array([tokenizer.eos_token_id, 10**6], dtype=np.int32)
    assert token_bytes(name).lengths(ids).tolist() == [0, 0]
    assert token_bytes(name).join(ids).tobytes() == b""


@tokenizers
def test_there_is_a_token_for_every_byte_of_utf8(name: str) -> None:
    table = token_bytes(name)
    never = {0xC0, 0xC1, *range(0xF5, 0x100)}
    some = np.array([byte for byte in range(256) if byte not in never])
    assert (table.of_byte[some] >= 0).all()
    assert table.join(table.of_byte[some]).tobytes() == bytes(some.tolist())


def bounds(name: str, ids: NDArray[np.int32], text: str) -> NDArray[np.int64]:
    """Where tokens begin and end in the bytes of a text, without SentencePiece's first blank."""
    ends = np.cumsum(token_bytes(name).lengths(ids))
    blank = int(ends[-1]) - len(text.encode()) if len(ends) else 0
    assert blank in (0, 1)
    return np.concatenate([[0], np.maximum(ends - blank, 0)])


@both_ways
@settings(max_examples=60)
@given(text=texts, ended=st.booleans())
@example(text="", ended=True)
@example(text=" two  blanks ", ended=False)
@example(text="e\u0301 \ufb01 \u212b", ended=True)
def test_exactly_the_tokens_with_common_bounds_are_aligned(
    student: str, teacher: str, text: str, ended: bool
) -> None:
    ids = encode(student, text, ended)
    if token_bytes(student).leading_blank:  # which it leaves out in front of a blank
        text = text.removeprefix(" ")
    response = aligner(student, teacher).align(ids)
    assert response.token_ids.dtype == np.int32
    if ended:
        assert response.aligned[-1]
        assert response.stop[-1] - response.first[-1] == 1
        assert response.token_ids[-1] == MAKERS[teacher]().eos_token_id
    ours = bounds(student, ids[: len(ids) - ended], text)
    theirs = bounds(teacher, response.token_ids[: len(response.token_ids) - ended], text)
    shared = set(ours.tolist()) & set(theirs.tolist())
    spans = list(pairwise(ours.tolist()))
    expected = [start < stop and {start, stop} <= shared for start, stop in spans]
    assert response.aligned[: len(spans)].tolist() == expected
    for token in np.flatnonzero(expected):
        first, stop = response.first[token], response.stop[token]
        assert (theirs[first], theirs[stop]) == spans[token]
    # Aligned tokens are covered one after another, without overlap.
    first, stop = response.first[response.aligned], response.stop[response.aligned]
    assert (first < stop).all()
    assert (first[1:] >= stop[:-1]).all()


@both_ways
def test_sums_are_those_of_the_teacher(student: str, teacher: str) -> None:
    ids = encode(student, SOLUTION, ended=True)
    response = aligner(student, teacher).align(ids)
    scores = random_scores(response)
    ours = response.to_student(scores)
    assert np.array_equal(ours.scored, response.aligned)
    assert 0.7 < ours.scored.mean() < 1
    for token, scored in enumerate(ours.scored):
        covering = slice(response.first[token], response.stop[token])
        for values, sums in ((scores.sampled, ours.sampled), (scores.wrong, ours.wrong)):
            assert values is not None
            assert sums is not None
            assert sums.shape == (*values.shape[:-1], len(ids))
            expected = values[..., covering].astype(float).sum(-1) if scored else np.nan
            np.testing.assert_allclose(sums[..., token], expected, rtol=1e-6)


@both_ways
@settings(max_examples=30)
@given(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_a_fully_aligned_response_has_the_same_log_prob_on_both_sides(
    student: str, teacher: str, numbers: list[int]
) -> None:
    # Digits and brackets are tokens of their own in both families.
    text = "".join(f"({number}" for number in numbers)
    response = aligner(student, teacher).align(encode(student, text, ended=True))
    assert response.aligned.all()
    scores = random_scores(response)
    ours = response.to_student(scores)
    assert scores.sampled is not None
    assert ours.sampled is not None
    np.testing.assert_allclose(ours.sampled.sum(), scores.sampled.sum(), rtol=1e-5)


@both_ways
def test_every_token_of_a_sum_is_aligned(student: str, teacher: str) -> None:
    response = aligner(student, teacher).align(encode(student, "x = 3 + 4", ended=True))
    assert response.aligned.all()


@both_ways
def test_a_missing_number_of_the_teacher_touches_its_token_alone(
    student: str, teacher: str
) -> None:
    ids = encode(student, SOLUTION)
    response = aligner(student, teacher).align(ids)
    whole = random_scores(response)
    assert whole.sampled is not None
    lost = int(np.flatnonzero(response.aligned)[3])
    scored, sampled = whole.scored.copy(), whole.sampled.copy()
    scored[response.first[lost]], sampled[response.first[lost]] = False, np.nan
    ours = response.to_student(TeacherScores(scored, sampled))
    before = response.to_student(TeacherScores(whole.scored, whole.sampled))
    assert np.flatnonzero(ours.scored != before.scored).tolist() == [lost]
    assert ours.sampled is not None
    assert before.sampled is not None
    assert np.isnan(ours.sampled[lost])
    others = np.delete(np.arange(len(ids)), lost)
    np.testing.assert_allclose(ours.sampled[others], before.sampled[others], rtol=1e-6)


@both_ways
def test_a_response_that_ends_within_a_character(student: str, teacher: str) -> None:
    table = token_bytes(student)
    smile = "🙂".encode()
    cut = table.of_byte[list(smile[:3])]
    ids = np.concatenate([encode(student, "So: "), cut, encode(student, "ab")]).astype(np.int32)
    response = aligner(student, teacher).align(ids)
    theirs = token_bytes(teacher)
    assert smile[:3] in theirs.join(response.token_ids).tobytes()
    tail = slice(len(ids) - len(encode(student, "ab")) - 3, len(ids) - len(encode(student, "ab")))
    assert response.aligned[tail].all()
    own = theirs.of_byte[list(smile[:3])].tolist()
    found = [response.token_ids[response.first[i]] for i in range(*tail.indices(len(ids)))]
    assert found == own


@both_ways
def test_special_tokens_inside_are_neither_shown_nor_scored(student: str, teacher: str) -> None:
    tokenizer = MAKERS[student]()
    inside = np.array([tokenizer.bos_token_id], dtype=np.int32)
    ids = np.concatenate([encode(student, "3 + 4"), inside, encode(student, "= 7", ended=True)])
    response = aligner(student, teacher).align(ids)
    place = len(encode(student, "3 + 4"))
    assert not response.aligned[place]
    assert response.aligned[-1]
    special = MAKERS[teacher]().all_special_ids
    assert [i for i in response.token_ids.tolist() if i in special] == [special_end(teacher)]


def special_end(teacher: str) -> int:
    end = MAKERS[teacher]().eos_token_id
    assert isinstance(end, int)
    return end


@both_ways
def test_names_of_special_tokens_in_a_text_stay_text(student: str, teacher: str) -> None:
    name = MAKERS[teacher]().eos_token
    response = aligner(student, teacher).align(encode(student, f"a {name} b"))
    assert special_end(teacher) not in response.token_ids
    assert name.encode() in token_bytes(teacher).join(response.token_ids).tobytes()
    behind = aligner(student, teacher, "<|assistant|>\n").align(encode(student, f"a {name} b"))
    assert special_end(teacher) not in behind.token_ids


def test_nothing_but_special_tokens_is_empty_for_the_teacher() -> None:
    tokenizer = MAKERS["tekken"]()
    ids = np.array([tokenizer.bos_token_id] * 2, dtype=np.int32)
    response = aligner("tekken", "sentencepiece").align(ids)
    assert response.token_ids.tolist() == []
    assert response.aligned.tolist() == [False, False]


def test_a_response_is_cut_as_it_would_be_behind_the_chat_templates_lead_in() -> None:
    alone = aligner("tekken", "sentencepiece").align(encode("tekken", "Hello"))
    behind = aligner("tekken", "sentencepiece", "<|assistant|>\n").align(encode("tekken", "Hello"))
    pieces = sentencepiece_tokenizer().convert_ids_to_tokens
    assert pieces(alone.token_ids.tolist()) == ["▁Hello"]
    assert pieces(behind.token_ids.tolist()) == ["Hello"]
    assert alone.aligned.all()
    assert behind.aligned.all()


def test_the_lead_in_is_what_the_chat_template_adds() -> None:
    prompts = Prompts(tekken_tokenizer(), PromptConfig(), "")
    assert prompts.lead_in == "<|assistant|>\n"
    assert prompts.with_tokenizer(sentencepiece_tokenizer()).lead_in == ""


@pytest.mark.parametrize(
    ("normalizer", "text", "changed"),
    [
        # The teacher reads other bytes than those of the "é" in two characters, or in one.
        (normalizers.NFC(), "cafe\u0301 = 7", (3, 6)),
        (normalizers.NFD(), "xa\u00e9\u00e9\u00e9 = 7", (2, 8)),
    ],
)
def test_a_normalizing_teacher_is_aligned_outside_of_what_it_changes(
    normalizer: normalizers.Normalizer, text: str, changed: tuple[int, int]
) -> None:
    tokenizer = byte_level_tokenizer.__wrapped__()
    tokenizer.backend_tokenizer.normalizer = normalizer
    ours, theirs = tekken_tokenizer(), TokenBytes(tokenizer)
    ids = encode("tekken", text, ended=True)
    response = Aligner(ours, [ours.eos_token_id], tokenizer, "").align(ids)
    spans = list(pairwise(bounds("tekken", ids[:-1], text).tolist()))
    unchanged = [stop <= changed[0] or start >= changed[1] for start, stop in spans]
    assert 0 < sum(unchanged) < len(spans)
    assert response.aligned.tolist() == [*unchanged, True]
    for token in np.flatnonzero(response.aligned):
        covering = response.token_ids[response.first[token] : response.stop[token]]
        own = token_bytes("tekken").join(ids[token : token + 1])
        assert np.array_equal(theirs.join(covering), own)


def test_a_response_that_grows_together_with_the_lead_in_stays_whole() -> None:
    ids = encode("sentencepiece", "\nSo 3")
    response = aligner("sentencepiece", "tekken", "<|assistant|>\n").align(ids)
    assert token_bytes("tekken").join(response.token_ids).tobytes() == b"\nSo 3"


def test_a_tokenizer_of_words_cannot_be_aligned() -> None:
    with pytest.raises(InputError, match=r"decoder: none.*byte-level BPE and SentencePiece"):
        TokenBytes(build_tokenizer())


def test_a_teacher_without_end_of_sequence_is_refused() -> None:
    teacher = byte_level_tokenizer.__wrapped__()
    teacher.eos_token = None
    with pytest.raises(InputError, match="names no end-of-sequence token"):
        Aligner(byte_level_tokenizer(), [0], teacher, "")
