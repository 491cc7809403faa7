from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from counterhint.fingerprint import tokenizer_fingerprint
from tests.tiny_models import write_tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """The part of a tokenizer that the fingerprint covers."""

    tokens: dict[str, int] = field(default_factory=lambda: {"<eos>": 0, "a": 1, "b": 2})
    all_special_tokens: tuple[str, ...] = ("<eos>",)

    def get_vocab(self) -> dict[str, int]:
        return self.tokens


def test_it_is_64_hexadecimal_digits() -> None:
    fingerprint = tokenizer_fingerprint(Vocabulary())
    assert len(fingerprint) == 64
    int(fingerprint, 16)


@given(st.permutations(list(Vocabulary().tokens.items())))
def test_the_order_of_the_vocabulary_does_not_matter(items: list[tuple[str, int]]) -> None:
    assert tokenizer_fingerprint(Vocabulary(dict(items))) == tokenizer_fingerprint(Vocabulary())


def test_another_id_token_or_special_token_is_another_tokenizer() -> None:
    ours = Vocabulary()
    others = [
        replace(ours, tokens={"<eos>": 0, "a": 2, "b": 1}),
        replace(ours, tokens={"<eos>": 0, "a": 1, "c": 2}),
        replace(ours, tokens={**ours.tokens, "d": 3}),
        replace(ours, all_special_tokens=()),
        replace(ours, all_special_tokens=("<eos>", "a")),
    ]
    fingerprints = {tokenizer_fingerprint(other) for other in [ours, *others]}
    assert len(fingerprints) == len(others) + 1


def test_a_saved_tokenizer_keeps_its_fingerprint(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, vocab_size=20)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
    loaded.add_tokens(["new"])
    assert tokenizer_fingerprint(loaded) != tokenizer_fingerprint(tokenizer)
    loaded.chat_template = "{{ messages }}"
