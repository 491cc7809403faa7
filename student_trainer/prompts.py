"""Prompts: a problem, with or without a hint, as token ids through the model's chat template."""

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from counterhint.errors import InputError
from counterhint.hints import load_template
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
    """`enable_thinking` of hinted prompts; None leaves it to the template."""


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
        self._tokenizer = tokenizer
        self._config = config
        self._answer_format = answer_format
        self._template = load_template(config.hint_template)

    def plain(self, problem: Problem) -> TokenIds:
        """The prompt that the student answers, int32 `[T]`."""
        text = f"{problem.text}\n\n{self._answer_format}".strip()
        return self._encode(text, self._config.student_thinking)

    def hinted(self, problem: Problem, hint: Hint) -> TokenIds:
        """The prompt under which the teacher reads a response, int32 `[T]`."""
        text = self._template.render(
            problem=problem.text,
            hint=hint.text,
            answer=hint.answer,
            answer_format=self._answer_format,
        )
        return self._encode(text, self._config.teacher_thinking)

    def _encode(self, text: str, thinking: bool | None) -> TokenIds:
        messages = [{"role": "user", "content": text}]
        if self._config.system is not None:
            messages.insert(0, {"role": "system", "content": self._config.system})
        options: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        ids = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False, **options
        )
        encoded = np.array(ids, dtype=np.int32)
        if (encoded == self._tokenizer.unk_token_id).any():
            raise InputError(
                f"the tokenizer in {self._tokenizer.name_or_path} has no token for part of {text!r}"
            )
        return encoded
