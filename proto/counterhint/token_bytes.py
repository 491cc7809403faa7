"""Which bytes each token of a vocabulary stands for.

Two families write every text exactly: byte-level BPE (GPT-2 and most since), whose vocabulary
spells bytes as printable characters, and SentencePiece with byte fallback (Llama 2, Mistral), whose
"▁" is a blank and whose `<0xE2>` is a byte. Decoding token by token would not do: a token may hold
a part of a character alone, for which decoders give a replacement character.
"""

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterhint.errors import InputError
from counterhint.tensors import TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The bytes of each token of one tokenizer.

    Args:
        tokenizer: the tokenizer.
        names: whether special tokens stand for their names, as a reader sees them; otherwise they
            have no bytes.

    Raises:
        InputError: the tokenizer is of another family.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, names: bool = False) -> None:
        name = tokenizer.name_or_path
        if not tokenizer.is_fast:
            raise InputError(
                f"the tokenizer in {name} has no tokenizer.json, from which its tokens' bytes are "
                "read: use a fast tokenizer"
            )
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        decoders = _flat(content["decoder"])
        kinds = {decoder["type"] for decoder in decoders}
        self.leading_blank = any(_drops_blank(decoder) for decoder in decoders)
        """Whether a blank in front of the text is not part of it (SentencePiece's dummy prefix)."""
        if "ByteLevel" in kinds:
            spelled = _byte_of_character()
            table = {
                index: bytes(spelled[character] for character in token)
                for token, index in tokenizer.backend_tokenizer.get_vocab(False).items()
                if all(character in spelled for character in token)
            }
        elif "ByteFallback" in kinds:
            table = {
                index: _sentencepiece_bytes(token)
                for token, index in tokenizer.backend_tokenizer.get_vocab(False).items()
            }
        else:
            raise InputError(
                f"the tokenizer in {name} (decoder: {', '.join(sorted(kinds)) or 'none'}) does not "
                "write every text exactly, so its tokens cannot be aligned by their bytes; byte-"
                "level BPE and SentencePiece with byte fallback can"
            )
        for added in content["added_tokens"]:
            hidden = added["special"] and not names
            table[added["id"]] = b"" if hidden else added["content"].encode()
        size = max(table) + 1
        self._lengths = np.zeros(size, dtype=np.int64)
        for index, spelling in table.items():
            self._lengths[index] = len(spelling)
        self._starts = np.cumsum(self._lengths) - self._lengths
        joined = b"".join(table.get(index, b"") for index in range(size))
        self._content = np.frombuffer(joined, dtype=np.uint8)
        self.of_byte = np.full(256, -1, dtype=np.int32)
        """`[256]`: the token of each single byte; -1 where there is none."""
        for index, spelling in table.items():
            if len(spelling) == 1:
                self.of_byte[spelling[0]] = index

    def lengths(self, token_ids: TokenIds) -> NDArray[np.int64]:
        """Bytes of each token, `[T]`; 0 for hidden special ones and ids outside the vocabulary."""
        inside = token_ids < len(self._lengths)
        return np.where(inside, self._lengths[np.where(inside, token_ids, 0)], 0)

    def join(self, token_ids: TokenIds) -> NDArray[np.uint8]:
        """The bytes that tokens stand for, one after another."""
        lengths = self.lengths(token_ids)
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        shift = np.repeat(self._starts[np.where(lengths, token_ids, 0)] - (ends - lengths), lengths)
        return self._content[shift + np.arange(total)]


def _flat(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A decoder's parts; itself, when it has none."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [part for inner in decoder["decoders"] for part in _flat(inner)]
    return [decoder]


def _drops_blank(decoder: dict[str, Any]) -> bool:
    if decoder["type"] == "Strip":
        return bool(decoder["content"] == " " and decoder["start"])
    return bool(decoder["type"] == "Metaspace" and decoder["prepend_scheme"] != "never")


def _sentencepiece_bytes(token: str) -> bytes:
    single = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(single[1], 16)]) if single else token.replace("▁", " ").encode()


def _byte_of_character() -> dict[str, int]:
    """How byte-level BPE spells bytes: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [*map(chr, printable), *(chr(0x100 + rank) for rank in range(len(others)))]
    return dict(zip(characters, [*printable, *others], strict=True))
