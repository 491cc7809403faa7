"""The student: its model, its tokenizer and where it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from counterhint import tokenizer_fingerprint
from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.log_probs import check_head


class StudentConfig(Config):
    """The model that is trained."""

    model: Path
    """Folder of the model in transformers format, with its tokenizer."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; auto takes a GPU when there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward and backward passes; weights and optimizer stay in float32."""


@dataclass(frozen=True, slots=True)
class Student:
    """A loaded student."""

    model: PreTrainedModel
    """Its model, with float32 weights."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    dtype: torch.dtype
    """Precision of its passes."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    def autocast(self) -> torch.autocast:
        """The context in which its passes run."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def end_ids(self) -> Sequence[int]:
        """The tokens that end a response."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        if configured is None:
            configured = self.tokenizer.eos_token_id
        if configured is None:
            raise InputError(
                f"the model in {self.tokenizer.name_or_path} names no end-of-sequence token: set "
                "eos_token_id in its generation_config.json"
            )
        return [configured] if isinstance(configured, int) else list(configured)


def load_student(config: StudentConfig) -> Student:
    """Loads a student.

    Raises:
        InputError: no model there, or one that the trainer cannot train.
    """
    if not (config.model / "config.json").is_file():
        raise InputError(
            f"student.model: {config.model} holds no model (no config.json): give a folder in "
            "transformers format; `counterhint models make RECIPE --out DIR` makes a recipe's own"
        )
    logging.disable_progress_bar()
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
        raise InputError(f"student.device: {device} cannot be used here: {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"student.model: {config.model} cannot be loaded: {error}; it must hold a causal "
            "language model in transformers format with its tokenizer, whole and undamaged"
        ) from error
    model.to(device)  # type: ignore[arg-type]  # the stub lacks the device
    model.eval()
    check_head(model)
    return Student(model, tokenizer, tokenizer_fingerprint(tokenizer), getattr(torch, config.dtype))
