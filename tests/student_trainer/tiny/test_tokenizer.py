from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer

from student_trainer.tiny.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
ORDINARY = sorted(set(TOKENIZER.get_vocab().values()) - set(TOKENIZER.all_special_ids))


@given(st.lists(st.sampled_from(ORDINARY), max_size=60))
def test_decoded_text_gives_the_same_ids(ids: list[int]) -> None:
    text = TOKENIZER.decode([*ids, TOKENIZER.eos_token_id], skip_special_tokens=True)
    assert TOKENIZER(text)["input_ids"] == ids


def test_saved_tokenizer_is_loaded_by_name(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "7 (1) +5 ."}]
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded.apply_chat_template(
        chat, add_generation_prompt=True
    ) == TOKENIZER.apply_chat_template(chat, add_generation_prompt=True)


def test_chat_template() -> None:
    chat = [
        {"role": "user", "content": "7 (1) +5 ."},
        {"role": "assistant", "content": "answer 2"},
        {"role": "user", "content": "wait"},
    ]
    assert TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == (
        "<|user|> 7 (1) +5 . <|assistant|> answer 2 <|end|> <|user|> wait <|assistant|>"
    )


def test_unknown_roles_are_refused() -> None:
    with pytest.raises(TemplateError, match="role system is neither user nor assistant"):
        TOKENIZER.apply_chat_template([{"role": "system", "content": "now"}])
