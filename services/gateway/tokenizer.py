"""The teacher's tokenizer: texts and chats to token ids, token ids to what a reader sees.

What a caller writes is text and never a control token: names of special tokens in a problem, a hint
or a response are spelled out, as any other text.
"""

import re
import secrets
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from counterhint.errors import InputError, InvalidJob
from counterhint.fingerprint import tokenizer_fingerprint
from counterhint.tensors import TokenIds
from counterhint.token_bytes import TokenBytes
from counterhint.token_classes import DEFAULT_TOKEN_CLASSES, TokenClasses, token_texts
from services.gateway.token_pieces import (
    TokenPieces,
    pieces_of_bytes,
    pieces_of_spans,
    pieces_of_texts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatMessage(TypedDict):
    """One message of a chat."""

    role: str
    content: str


class Tokenizer:
    """A fast tokenizer with its chat template. Its methods may be called from any thread.

    Args:
        tokenizer: of transformers.
        classes: YAML file of the token classes, see `counterhint.token_classes`.

    Raises:
        InputError: it has no tokenizer.json, or the classes cannot be used.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", classes: Path = DEFAULT_TOKEN_CLASSES
    ) -> None:
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Backend

        self._tokenizer = tokenizer
        if not tokenizer.is_fast:
            raise InputError(
                f"--tokenizer {tokenizer.name_or_path} has no tokenizer.json, which says where in "
                "a text its tokens lie: use a fast tokenizer"
            )
        self.fingerprint = tokenizer_fingerprint(tokenizer)
        """See `counterhint.fingerprint`."""
        content = tokenizer.backend_tokenizer.to_str()
        # Copies, so that no other user of the tokenizer changes the flag meanwhile.
        self._plain, self._marks = Backend.from_str(content), Backend.from_str(content)
        for backend in (self._plain, self._marks):
            backend.encode_special_tokens = True  # spells them out
            backend.no_truncation()
            backend.no_padding()
        added = self._plain.get_added_tokens_decoder()
        special = {index: token for index, token in added.items() if token.special}
        longest_first = sorted((token.content for token in special.values()), key=len, reverse=True)
        self._special_name = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # In a chat, the template's special tokens go by names that no caller can know.
        self._secret = f"\ue000{secrets.token_hex(16)}"
        self._mark_of = {
            token.content: f"{self._secret}t{index};" for index, token in special.items()
        }
        self._marks.add_tokens(
            [
                AddedToken(
                    self._mark_of[token.content],
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=False,
                )
                for token in special.values()
            ]
        )
        self._marked = {
            self._marks.token_to_id(self._mark_of[token.content]): index
            for index, token in special.items()
        }
        self._bytes = _bytes_of(tokenizer)
        texts = token_texts(tokenizer, len(tokenizer))
        self._texts = texts
        self._classes = TokenClasses.read(classes, texts)
        # As the trainer: byte-level tokenizers may name any special token as the unknown one.
        others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        unknown = tokenizer.unk_token_id
        self._unknown_id = None if unknown in others else unknown

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer of a folder: tokenizer.json, tokenizer_config.json, a chat template.

        Raises:
            InputError: there is none that can be used.
        """
        from transformers import AutoTokenizer

        if not folder.is_dir():
            raise InputError(
                f"--tokenizer {folder}: no such folder; give the one with the teacher's "
                "tokenizer.json, tokenizer_config.json and chat template"
            )
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"--tokenizer {folder}: no tokenizer can be loaded from there: {error}"
            ) from error
        return cls(tokenizer)

    def encode(self, text: str, param: str, *, framed: bool = False) -> TokenIds:
        """The tokens of a text, int32 `[T]`.

        Args:
            text: the text.
            param: where in the request it stands, for messages.
            framed: whether it gets the special tokens that the tokenizer puts around a text.

        Raises:
            InvalidJob: the tokenizer has no token for part of it.
        """
        return self._checked(self._plain.encode(text, add_special_tokens=framed).ids, text, param)

    def encode_chat(
        self, messages: Sequence[ChatMessage], param: str, *, thinking: bool | None = None
    ) -> TokenIds:
        """The prompt of a chat up to where the assistant answers, int32 `[T]`.

        The ids are those that the trainer's prompts have, except that special tokens' names in the
        messages are text.

        Args:
            messages: the chat.
            param: where in the request it stands, for messages.
            thinking: `enable_thinking` of the chat template; None leaves it to the template.

        Raises:
            InvalidJob: the template refuses the chat, there is none, or the tokenizer has no token
                for part of the text.
        """
        spelled: list[str] = []

        def hide(name: re.Match[str]) -> str:
            spelled.append(name[0])
            return f"{self._secret}s{len(spelled) - 1};"

        hidden: list[ChatMessage] = [
            {"role": message["role"], "content": self._special_name.sub(hide, message["content"])}
            for message in messages
        ]
        # Every special token's name in this text is the template's own.
        text = self._special_name.sub(
            lambda name: self._mark_of[name[0]], self._render(hidden, param, thinking)
        )
        text = re.sub(f"{self._secret}s(\\d+);", lambda found: spelled[int(found[1])], text)
        encoded = self._marks.encode(text, add_special_tokens=False)
        text = re.sub(f"{self._secret}t\\d+;", "", text)  # for a message: no caller knows the marks
        ids = [self._marked.get(index, index) for index in encoded.ids]
        return self._checked(ids, text, param)

    def pieces(self, token_ids: TokenIds, text: str | None = None) -> TokenPieces:
        """What a reader sees of a response's tokens.

        Args:
            token_ids: int32 `[T]`.
            text: the text that was tokenized to them; None when the ids came by themselves.
        """
        if self._bytes is not None:
            exact = self._exact_pieces(self._bytes, token_ids, text)
            if exact is not None:
                return exact
        if text is not None:
            encoded = self._plain.encode(text, add_special_tokens=False)
            return pieces_of_spans(text, np.array(encoded.offsets, dtype=np.int64))
        return pieces_of_texts(self._streamed(token_ids))

    def texts_of(self, token_ids: NDArray[np.int32]) -> list[str]:
        """Each token's text by itself; empty for ids outside the vocabulary."""
        known = len(self._texts)
        return [self._texts[index] if 0 <= index < known else "" for index in token_ids.tolist()]

    def names_of(self, token_ids: NDArray[np.int32]) -> list[str]:
        """What tells each token from others: its text, or `bytes:\\xe2` where that is no UTF-8."""
        known = len(self._names)
        return [
            self._names[index] if 0 <= index < known else f"token_id:{index}"
            for index in token_ids.tolist()
        ]

    @cached_property
    def _names(self) -> list[str]:
        if self._bytes is None:
            return self._texts
        ids = np.arange(len(self._texts), dtype=np.int32)
        content, ends = self._bytes.join(ids).tobytes(), np.cumsum(self._bytes.lengths(ids))
        return [_name(content[start:stop]) for start, stop in pairwise([0, *ends.tolist()])]

    def classes_of(self, token_ids: TokenIds) -> list[str]:
        """Each token's class: `style`, `task` or `other`."""
        names, size = self._classes.names, len(self._classes.class_ids)
        inside = token_ids < size
        classes = np.where(inside, self._classes.of(np.where(inside, token_ids, 0)), len(names) - 1)
        return [names[index] for index in classes.tolist()]

    def _render(self, messages: Sequence[ChatMessage], param: str, thinking: bool | None) -> str:
        if self._tokenizer.chat_template is None:
            raise InvalidJob(
                "the gateway's tokenizer has no chat template: send token ids, or add a "
                "chat_template.jinja to its folder",
                reason="NO_CHAT_TEMPLATE",
                details={"param": param},
            )
        options: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": one["role"], "content": one["content"]} for one in messages],
                add_generation_prompt=True,
                tokenize=False,
                **options,
            )
        except TemplateError as error:
            raise InvalidJob(
                f"{param}: the chat template refuses the messages: {error}",
                reason="CHAT_REFUSED",
                details={"param": param},
            ) from error
        assert isinstance(text, str)  # one conversation, one text
        return text

    def _checked(self, ids: Sequence[int], text: str, param: str) -> TokenIds:
        encoded = np.array(ids, dtype=np.int32)
        if self._unknown_id is not None and (encoded == self._unknown_id).any():
            shown = text if len(text) <= 80 else f"{text[:80]}…"
            raise InvalidJob(
                f"{param}: the teacher's tokenizer has no token for part of {shown!r}",
                reason="TEXT_UNKNOWN_TO_TOKENIZER",
                details={"param": param},
            )
        return encoded

    def _exact_pieces(
        self, table: TokenBytes, token_ids: TokenIds, text: str | None
    ) -> TokenPieces | None:
        """The pieces by the tokens' bytes; None where these are not the text's, but normalized."""
        lengths, content = table.lengths(token_ids), table.join(token_ids).tobytes()
        blank = table.leading_blank and content.startswith(b" ")
        if blank and (text is None or not text.startswith(" ")):
            lengths, content = lengths.copy(), content[1:]
            lengths[(lengths > 0).argmax()] -= 1
        if text is not None and content != text.encode():
            return None
        return pieces_of_bytes(content, lengths)

    def _streamed(self, token_ids: TokenIds) -> list[str]:
        """Each token's share of the decoded text."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(self._plain, index) or "" for index in token_ids.tolist()]


def _name(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _bytes_of(tokenizer: "PreTrainedTokenizerBase") -> TokenBytes | None:
    """The bytes of each token, where tokens write every text exactly."""
    try:
        return TokenBytes(tokenizer, names=True)
    except InputError:
        return None
