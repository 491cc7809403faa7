"""Which tokens are style and which bear the task, decided once for a whole vocabulary.

A file of token classes names each class with its `words` (whole token texts, in any case) and its
`patterns` (regular expressions that must match a whole token text). A token is looked at by itself,
as text without the blanks around it, so a word that a tokenizer splits is not found: list its
pieces where they matter. The first class that matches has the token; tokens of none are `other`.

Needs the extra `cli`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from counterhint.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OTHER = "other"
"""Class of the tokens that no class of the file lists."""
DEFAULT_TOKEN_CLASSES = Path(__file__).with_name("token_classes.yaml")
"""Style and task tokens of English reasoning about mathematics and logic."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


class TokenClassConfig(BaseModel):
    """One class of tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Token texts without the blanks around them; upper and lower case are the same."""
    patterns: tuple[Annotated[str, AfterValidator(_compiles)], ...] = ()
    """Regular expressions that match a whole token text, in its own case."""


_FILE = TypeAdapter(dict[str, TokenClassConfig])


def read_token_classes(path: Path) -> Mapping[str, TokenClassConfig]:
    """The classes of a file, by name.

    Raises:
        InputError: there is no such file, it does not hold token classes, or one is named `other`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        classes = _FILE.validate_python(content)
    except OSError as error:
        raise InputError(f"token classes: {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"token classes: {path} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise InputError(
            "\n".join([f"token classes: {path} must name classes with words and patterns:", *lines])
        ) from error
    if OTHER in classes:
        raise InputError(f"token classes: {path}: {OTHER!r} is the class of all remaining tokens")
    return classes


def token_texts(tokenizer: "PreTrainedTokenizerBase", size: int) -> list[str]:
    """The text of each token of a vocabulary by itself.

    Args:
        tokenizer: the tokenizer.
        size: rows of the model's output layer, V; those that stand for no token have no text.
    """
    texts = tokenizer.batch_decode([[index] for index in range(min(len(tokenizer), size))])
    return [str(text) for text in texts] + [""] * (size - len(texts))


@dataclass(frozen=True, slots=True)
class TokenClasses:
    """The class of every token of a vocabulary."""

    names: tuple[str, ...]
    """Names of the classes in the file's order; the last is `other`."""
    class_ids: NDArray[np.int8]
    """`[V]`: index into `names` of each token."""

    @classmethod
    def read(cls, path: Path, texts: Sequence[str]) -> Self:
        """Classifies a vocabulary by a file.

        Raises:
            InputError: see `read_token_classes`.
        """
        return cls.build(read_token_classes(path), texts)

    @classmethod
    def build(cls, classes: Mapping[str, TokenClassConfig], texts: Sequence[str]) -> Self:
        """Classifies a vocabulary.

        Args:
            classes: by name, see `read_token_classes`.
            texts: of the vocabulary, see `token_texts`.
        """
        words: dict[str, int] = {}
        patterns = []
        for index, one in enumerate(classes.values()):
            for word in one.words:
                words.setdefault(word.casefold(), index)
            patterns.append([re.compile(pattern) for pattern in one.patterns])
        other = len(classes)

        def classify(text: str) -> int:
            for index, found in enumerate(patterns):
                if words.get(text.casefold()) == index:
                    return index
                if any(pattern.fullmatch(text) for pattern in found):
                    return index
            return other

        ids = np.array([classify(text.strip()) for text in texts], dtype=np.int8)
        return cls((*classes, OTHER), ids)

    def of(self, token_ids: NDArray[np.int32]) -> NDArray[np.int8]:
        """The class of each token, `[N]`."""
        return self.class_ids[token_ids]
