"""The teacher's tokenizer: the trainer's prompts, no control tokens from callers, exact pieces."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from counterhint.errors import InputError, InvalidJob
from counterhint.hints import builtin_templates
from services.gateway.score_models import ScoreRequest
from services.gateway.score_plan import make_plan
from services.gateway.tokenizer import Tokenizer
from student_trainer.hints import Hint
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.tasks.base import Problem
from student_trainer.tiny.tokenizer import build_tokenizer
from tests.student_trainer.scoring.tokenizers import (
    CHAT,
    byte_level_tokenizer,
    sentencepiece_tokenizer,
    tekken_tokenizer,
)


@cache
def word_piece_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece in lower case without accents, as BERT's; it writes no text exactly."""
    letters = [chr(code) for code in range(0x21, 0x7F)]
    words = ["[UNK]", "[END]", *letters, *(f"##{letter}" for letter in letters), "the", "##ing"]
    backend = Backend(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", eos_token="[END]"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


@cache
def normalizing_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE behind NFC, as Qwen's."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(byte_level_tokenizer().backend_tokenizer.to_str()),
        eos_token="<|end|>",
    )
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.chat_template = CHAT
    return tokenizer


MAKERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bytes": byte_level_tokenizer,
    "nfc": normalizing_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "tekken": tekken_tokenizer,
    "words": build_tokenizer,
    "word pieces": word_piece_tokenizer,
}
WRITES_ALL = ("bytes", "nfc", "sentencepiece", "tekken")
every = pytest.mark.parametrize("name", MAKERS)
texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.text(
    "ab 1.\n\té🙂\u0301", max_size=30
)


@cache
def gateway_tokenizer(name: str) -> Tokenizer:
    return Tokenizer(MAKERS[name]())


def ordinary(name: str) -> str:
    return "7 (1) +5 ." if name == "words" else "What is the sum (1) 7 + 5?"


def prompts(name: str, template: str, answer_format: str) -> Prompts:
    return Prompts(MAKERS[name](), PromptConfig(hint_template=template), answer_format)


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"words"}))  # too few for the templates
@pytest.mark.parametrize("template", builtin_templates())
def test_prompts_are_the_trainer_s(name: str, template: str) -> None:
    problem, hints = ordinary(name), (Hint("7 + 5 = 12", "12"), Hint("7 + 5 = 13", "13"))
    trainers = prompts(name, template, "Box the answer.")
    asked = Problem("p", problem, "12")
    request = ScoreRequest.model_validate(
        {
            "problem": problem,
            "correct_hint": {"hint": hints[0].text, "answer": hints[0].answer},
            "wrong_hints": [{"hint": hints[1].text, "answer": hints[1].answer}],
            "template": template,
            "answer_format": "Box the answer.",
            "responses": ["12"],
        }
    )
    plan = make_plan(request, gateway_tokenizer(name), None)
    assert plan.names == ("correct", "wrong 1", "unhinted")
    for ours, theirs in zip(
        plan.contexts,
        (*(trainers.hinted(asked, hint) for hint in hints), trainers.plain(asked)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@every
def test_a_chat_is_what_transformers_makes_of_it(name: str) -> None:
    tokenizer = MAKERS[name]()
    chat = [{"role": "user", "content": ordinary(name)}]
    expected = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    ours = gateway_tokenizer(name).encode_chat([{"role": "user", "content": ordinary(name)}], "x")
    assert ours.tolist() == list(expected)


@pytest.mark.parametrize("name", WRITES_ALL)
@given(before=texts, after=texts)
@example(before="", after="")
def test_names_of_special_tokens_in_a_text_are_text(name: str, before: str, after: str) -> None:
    tokenizer, ours = MAKERS[name](), gateway_tokenizer(name)
    special = set(tokenizer.all_special_ids)
    for token in tokenizer.all_special_tokens:
        content = f"{before}{token}{after}"
        alone = ours.encode(content, "x")
        assert not special & set(alone.tolist())
        without = ours.encode_chat([{"role": "user", "content": "a"}], "x").tolist()
        chat = ours.encode_chat([{"role": "user", "content": content}], "x").tolist()
        assert [one for one in chat if one in special] == [one for one in without if one in special]
        assert token in tokenizer.decode(chat, skip_special_tokens=True)


@pytest.mark.parametrize("name", WRITES_ALL)
@given(text=texts.filter(bool))
@example("e\u0301 🙂 naïve\n\n")
@example(" a")
@example("  a")
def test_pieces_of_a_text_are_the_text(name: str, text: str) -> None:
    tokenizer = gateway_tokenizer(name)
    ids = tokenizer.encode(text, "x")
    pieces = tokenizer.pieces(ids, text)
    assert pieces.text == "".join(pieces.texts) == text
    assert pieces.offsets[:, 0].tolist() == [0, *pieces.offsets[:-1, 1].tolist()]
    assert pieces.offsets[-1, 1] == len(text.encode())
    assert len(pieces.texts) == len(ids) == len(tokenizer.classes_of(ids))


@pytest.mark.parametrize(
    ("name", "text"),
    [("words", " 7  (1)\n+5 "), ("word pieces", " The Sum\n of  tésting 7+5 ")],
)
def test_pieces_of_a_text_that_tokens_do_not_write_exactly(name: str, text: str) -> None:
    tokenizer = gateway_tokenizer(name)
    pieces = tokenizer.pieces(tokenizer.encode(text, "x"), text)
    assert "".join(pieces.texts) == pieces.text == text
    assert pieces.offsets[-1, 1] == len(text.encode())
    assert all(piece.strip() for piece in pieces.texts)


@every
@given(data=st.data())
def test_pieces_of_any_token_ids(name: str, data: st.DataObject) -> None:
    tokenizer, size = gateway_tokenizer(name), len(MAKERS[name]())
    ids = data.draw(st.lists(st.integers(0, size + 3), min_size=1, max_size=12))
    pieces = tokenizer.pieces(np.array(ids, dtype=np.int32))
    assert "".join(pieces.texts) == pieces.text
    assert len(pieces.texts) == len(ids)
    stops = pieces.offsets[:, 1]
    assert stops[-1] == len(pieces.text.encode())
    assert (pieces.offsets[:, 0] == np.append(0, stops[:-1])).all()


@pytest.mark.parametrize("name", ["bytes", "tekken"])
def test_ids_by_themselves_read_as_their_text_with_special_tokens_named(name: str) -> None:
    backend, ours = MAKERS[name](), gateway_tokenizer(name)
    ids = np.append(ours.encode("naïve 🙂", "x"), backend.eos_token_id).astype(np.int32)
    pieces = ours.pieces(ids)
    assert pieces.text == f"naïve 🙂{backend.eos_token}"
    assert pieces.texts[-1] == backend.eos_token


def test_a_text_without_tokens_for_it_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidJob, match="no token for part of 'seven'") as refused:
        gateway_tokenizer("words").encode("seven", "responses.0.text")
    assert refused.value.details["param"] == "responses.0.text"


def test_a_chat_that_the_template_refuses() -> None:
    with pytest.raises(InvalidJob, match="is neither user nor assistant"):
        gateway_tokenizer("words").encode_chat([{"role": "system", "content": "7"}], "messages")


def test_without_a_chat_template_it_says_so() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(byte_level_tokenizer().backend_tokenizer.to_str())
    )
    with pytest.raises(InvalidJob, match=r"chat_template\.jinja"):
        Tokenizer(tokenizer).encode_chat([{"role": "user", "content": "a"}], "problem")


def test_a_folder_that_holds_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Tokenizer.load(tmp_path / "absent")
    with pytest.raises(InputError, match="no tokenizer can be loaded"):
        Tokenizer.load(tmp_path)
