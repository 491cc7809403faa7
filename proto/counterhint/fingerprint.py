"""The tokenizer fingerprint: token ids mean the same thing on both sides only if it is equal."""

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """What the fingerprint needs of a tokenizer; transformers' tokenizers have it."""

    @property
    def all_special_tokens(self) -> Sequence[str]:
        """The special tokens."""

    def get_vocab(self) -> dict[str, int]:
        """The id of every token, added tokens included."""


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256, in hexadecimal, over the vocabulary with its ids and the set of special tokens.

    It does not cover the chat template: contexts arrive as token ids, so a template changes what is
    asked, not what an id means.
    """
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": sorted(set(tokenizer.all_special_tokens)),
    }
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()
