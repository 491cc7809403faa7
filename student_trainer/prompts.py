"""Prompts: a problem, with or without a hint, as token ids through the model's chat template."""

from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from counterhint.errors import InputError
from counterhint.hints import load_template, question
from counterhint.tensors import TokenIds
from student_trainer.config import Config
from student_trainer.hints import Hint
from student_trainer.tasks.base import Problem


class PromptConfig(Config):
    """How prompts are made."""

    hint_template: str = "neutral"
    """Name of a built-in hint template, or a file."""
    system: str | None = None
    """System message; the chat template's own default when None."""
    student_thinking: bool | None = None
    """`enable_thinking` of the student's chat template; None leaves it to the template."""
    teacher_thinking: bool | None = None
    """`enable_thinking` of what the teacher reads; None leaves it to the template."""


class Prompts:
    """Makes the prompts of one tokenizer, task and template.

    Plain and hinted prompts go through the same chat template, so that they differ in the hint and
    in nothing else (a newline more on one side costs about 0.3 nats a token).

    Raises:
        InputError: the tokenizer has no chat template.
        TemplateError: the hint template cannot be used.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, answer_format: str
    ) -> None:
        if tokenizer.chat_template is None:
            raise InputError(
                f"the tokenizer in {tokenizer.name_or_path} has no chat template: use an instruct "
                "model, or add a chat_template.jinja to its folder"
            )
        self.tokenizer = tokenizer
        self._config = config
        self._answer_format = answer_format
        self._template = load_template(config.hint_template)
        # Byte-level tokenizers know every word, and may name any special token as the unknown one.
        others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        unknown = tokenizer.unk_token_id
        self._unknown_id = None if unknown in others else unknown

    def with_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> "Prompts":
        """The same prompts by another model's tokenizer and chat template."""
        return Prompts(tokenizer, self._config, self._answer_format)

    @property
    def lead_in(self) -> str:
        """What the chat template puts between what the teacher is told and its response."""
        messages = [{"role": "user", "content": "?"}]
        without, whole = (
            self.tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=asked,
                tokenize=False,
                **_thinking(self._config.teacher_thinking),
            )
            for asked in (False, True)
        )
        assert isinstance(without, str)  # one conversation, one text
        assert isinstance(whole, str)
        return whole.removeprefix(without) if whole.startswith(without) else ""

    def plain(self, problem: Problem) -> TokenIds:
        """The prompt that the student answers, int32 `[T]`."""
        return self._encode(self._question(problem), self._config.student_thinking)

    def teacher_plain(self, problem: Problem) -> TokenIds:
        """The same prompt as the teacher reads it where no hint is shown, int32 `[T]`."""
        return self._encode(self._question(problem), self._config.teacher_thinking)

    def hinted(self, problem: Problem, hint: Hint) -> TokenIds:
        """The prompt under which the teacher reads a response, int32 `[T]`."""
        text = self._template.render(
            problem=problem.text,
            hint=hint.text,
            answer=hint.answer,
            answer_format=self._answer_format,
        )
        return self._encode(text, self._config.teacher_thinking)

    def hint_length(self, hint: Hint) -> int:
        """Tokens of the hint's solution text by itself; 0 when the template does not show it."""
        if not self._template.shows_solution:
            return 0
        return len(self.tokenizer.encode(hint.text, add_special_tokens=False, verbose=False))

    def hint_tail(self, hint: Hint, tokens: int) -> Hint:
        """The hint with the longest end of its solution text that takes at most `tokens` tokens.

        The text is cut where one of its tokens begins, and what is left is tokenized again: it may
        take more tokens than it had inside the whole, and is cut further until it fits.

        Raises:
            InputError: the tokenizer does not say where in a text its tokens lie.
        """
        if not self.tokenizer.is_fast:
            raise InputError(
                f"the tokenizer in {self.tokenizer.name_or_path} does not say where its tokens lie "
                "in a text, so hints cannot be shortened: use a fast tokenizer (tokenizer.json), "
                "or set hints.too_long=drop"
            )
        encoded = self.tokenizer(
            hint.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        starts = [start for start, _ in encoded["offset_mapping"]]
        if len(starts) <= tokens:
            return hint
        for start in dict.fromkeys(starts[len(starts) - tokens :]):
            shorter = replace(hint, text=hint.text[start:])
            if self.hint_length(shorter) <= tokens:
                return shorter
        return replace(hint, text="")

    def _question(self, problem: Problem) -> str:
        return question(problem.text, self._answer_format)

    def _encode(self, text: str, thinking: bool | None) -> TokenIds:
        messages = [{"role": "user", "content": text}]
        if self._config.system is not None:
            messages.insert(0, {"role": "system", "content": self._config.system})
        ids = self.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **_thinking(thinking),
        )
        encoded = np.array(ids, dtype=np.int32)
        if self._unknown_id is not None and (encoded == self._unknown_id).any():
            raise InputError(
                f"the tokenizer in {self.tokenizer.name_or_path} has no token for part of {text!r}"
            )
        return encoded


def _thinking(wanted: bool | None) -> dict[str, Any]:
    return {} if wanted is None else {"enable_thinking": wanted}
