"""Demonstrations as token batches, cut so that next to nothing is padding."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from student_trainer.hints import Hint
from student_trainer.prompts import Prompts
from student_trainer.tiny.config import WarmupConfig
from student_trainer.tiny.demonstrations import Demonstration, Role


@dataclass(frozen=True, slots=True)
class Batch:
    """One optimizer step's examples, padded on the right to the longest of them."""

    input_ids: Tensor
    """Token ids, int64 `[B, T]`."""
    targets: Tensor
    """The token that follows each position, int64 `[B, T]`; anything where the weight is 0."""
    weights: Tensor
    """Weight of each position in the loss, float32 `[B, T]`; 0 on prompts, padding and forced
    values."""


def token_batches(
    examples: Sequence[Demonstration],
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    config: WarmupConfig,
    *,
    seed: int,
) -> list[Batch]:
    """Cut examples into batches of at most `config.batch_tokens` tokens, padding included.

    Examples of about the same length share a batch; the order of the batches is drawn at random.
    """
    vocabulary = tokenizer.get_vocab()
    weight_of = {Role.WORDING: 1.0, Role.WORKING: config.working_weight, Role.FORCED: 0.0}
    rows: list[tuple[list[int], list[float]]] = []
    for example in examples:
        prompt = prompt_ids(example, prompts)
        solution = example.solution.tokens()
        ids = [*prompt, *(vocabulary[word] for word, _ in solution), tokenizer.eos_token_id]
        # The weight of a token stands where it is predicted: one to the left of it.
        weights = [0.0] * (len(prompt) - 1) + [weight_of[role] for _, role in solution]
        rows.append((ids, [*weights, 1.0]))
    order = random.Random(f"batches/{seed}")
    order.shuffle(rows)
    rows.sort(key=lambda row: len(row[0]))
    batches = []
    while rows:
        count = max(1, config.batch_tokens // len(rows[-1][0]))
        batches.append(_pad(rows[-count:], tokenizer.pad_token_id))
        del rows[-count:]
    order.shuffle(batches)
    return batches


def prompt_ids(example: Demonstration, prompts: Prompts) -> list[int]:
    """The example's prompt, as the trainer makes it."""
    if example.hint is None:
        ids: list[int] = prompts.plain(example.problem).tolist()
    else:
        hint = Hint(example.hint.text(), str(example.hint.answer))
        ids = prompts.hinted(example.problem, hint).tolist()
    return ids


def _pad(rows: Sequence[tuple[list[int], list[float]]], pad: int) -> Batch:
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (longest - 1 - len(row)) for _, row in rows])
    return Batch(input_ids=ids[:, :-1], targets=ids[:, 1:], weights=weights)
