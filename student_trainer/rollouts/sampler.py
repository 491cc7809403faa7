"""The built-in sampler: batched, with a key-value cache, on the student's own weights.

Each prompt is read once and its cache expanded over the prompt's samples. A row that has ended
leaves the batch, and a group is handed over as soon as its last row has ended, so that it can be
scored while the others are still being sampled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from counterhint.tensors import TokenIds
from student_trainer.config import Config


class RolloutConfig(Config):
    """How rollouts are sampled for training."""

    prompts_per_step: int = Field(8, ge=1)
    """Problems in a step."""
    group_size: int = Field(8, ge=2)
    """G: rollouts a problem."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest response; one that reaches it counts as truncated."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; the student's log probs are taken at the same one, the teacher's always
    at 1. So at other temperatures the one-sided signal of metrics and report shows the difference
    in temperature as well; the contrast does not."""
    max_rows: int = Field(256, ge=1)
    """Most rollouts that are sampled at the same time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled response."""

    token_ids: TokenIds
    """int32 `[T]`, with the end-of-sequence token if there is one."""
    log_probs: NDArray[np.float32]
    """`[T]`: log probs at the sampling temperature."""
    entropies: NDArray[np.float32]
    """`[T]`: entropies at the sampling temperature, in nats."""
    finished: bool
    """Whether it ended by itself."""


class Sampler:
    """Samples responses from a model.

    Args:
        model: a causal language model in evaluation mode.
        end_ids: tokens that end a response.
        pad_id: any token id, for the padding.
    """

    def __init__(self, model: PreTrainedModel, end_ids: Sequence[int], pad_id: int) -> None:
        self._model = model
        self._end_ids = torch.tensor(sorted(set(end_ids)), device=model.device)
        self._pad_id = pad_id

    @torch.no_grad()
    def sample_groups(
        self,
        prompts: Sequence[TokenIds],
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        max_rows: int,
        generator: torch.Generator,
    ) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """Samples `group_size` responses to each prompt.

        Args:
            prompts: int32 `[T]` each.
            group_size: responses a prompt.
            max_new_tokens: longest response.
            temperature: 0 takes the most probable token.
            max_rows: most responses sampled at the same time; at least one group.
            generator: source of randomness, on the model's device.

        Yields:
            The index of a prompt and its samples, as each group is complete.
        """
        wave = max(1, max_rows // group_size)
        for start in range(0, len(prompts), wave):
            for index, samples in self._sample_wave(
                prompts[start : start + wave], group_size, max_new_tokens, temperature, generator
            ):
                yield start + index, samples

    def _sample_wave(
        self,
        prompts: Sequence[TokenIds],
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        device = self._model.device
        count = len(prompts) * group_size
        rows = torch.arange(count, device=device)
        cache, hidden, mask = self._read_prompts(prompts, group_size, max_new_tokens)
        position = mask.sum(dim=1)
        width = mask.shape[1] - max_new_tokens
        ids = torch.zeros(count, max_new_tokens, dtype=torch.int32, device=device)
        log_probs = torch.zeros(count, max_new_tokens, device=device)
        entropies = torch.zeros(count, max_new_tokens, device=device)
        lengths = torch.full((count,), max_new_tokens, device=device)
        finished = torch.zeros(count, dtype=torch.bool, device=device)
        running = np.full(len(prompts), group_size)
        head = self._model.get_output_embeddings()
        for step in range(max_new_tokens):
            token, log_prob, entropy = _draw(head(hidden).float(), temperature, generator)
            ids[rows, step], log_probs[rows, step], entropies[rows, step] = (
                token.int(),
                log_prob,
                entropy,
            )
            ended = torch.isin(token, self._end_ids)
            if bool(ended.any()):
                done = rows[ended]
                lengths[done], finished[done] = step + 1, True
                groups, leaving = np.unique(done.cpu().numpy() // group_size, return_counts=True)
                running[groups] -= leaving
                for group in groups[running[groups] == 0]:
                    yield (
                        int(group),
                        self._collect(
                            int(group), group_size, ids, log_probs, entropies, lengths, finished
                        ),
                    )
                stay = (~ended).nonzero()[:, 0]
                rows, token, position, mask = rows[stay], token[stay], position[stay], mask[stay]
                if not len(rows):
                    return
                cache.batch_select_indices(stay)
            if step + 1 == max_new_tokens:
                break
            mask[:, width + step] = 1
            hidden = self._model.base_model(
                input_ids=token[:, None],
                attention_mask=mask[:, : width + step + 1],
                position_ids=position[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            position = position + 1
        for group in np.flatnonzero(running > 0):
            yield (
                int(group),
                self._collect(int(group), group_size, ids, log_probs, entropies, lengths, finished),
            )

    def _read_prompts(
        self, prompts: Sequence[TokenIds], group_size: int, max_new_tokens: int
    ) -> tuple[DynamicCache, Tensor, Tensor]:
        """One pass over the prompts, left-padded; cache, last hidden states, mask `[rows, S]`."""
        device = self._model.device
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._pad_id, device=device)
        mask = torch.zeros(len(prompts), width + max_new_tokens, dtype=torch.long, device=device)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            mask[row, width - len(prompt) : width] = 1
        cache = DynamicCache()
        hidden = self._model.base_model(
            input_ids=ids,
            attention_mask=mask[:, :width],
            position_ids=(mask[:, :width].cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        cache.batch_repeat_interleave(group_size)
        return (
            cache,
            hidden.repeat_interleave(group_size, dim=0),
            mask.repeat_interleave(group_size, dim=0),
        )

    def _collect(
        self,
        group: int,
        group_size: int,
        ids: Tensor,
        log_probs: Tensor,
        entropies: Tensor,
        lengths: Tensor,
        finished: Tensor,
    ) -> tuple[Sample, ...]:
        rows = slice(group * group_size, (group + 1) * group_size)
        tokens, chosen, spread = (
            values[rows].cpu().numpy() for values in (ids, log_probs, entropies)
        )
        return tuple(
            Sample(
                tokens[row, :length].copy(),
                chosen[row, :length].copy(),
                spread[row, :length].copy(),
                finished=ended,
            )
            for row, (length, ended) in enumerate(
                zip(lengths[rows].tolist(), finished[rows].tolist(), strict=True)
            )
        )


def _draw(
    logits: Tensor, temperature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A token of each row `[B, V]`, its log prob, and the entropy; `[B]` each."""
    log_probs = (logits / temperature if temperature else logits).log_softmax(dim=-1)
    probs = log_probs.exp()
    if temperature:
        token = torch.multinomial(probs, 1, generator=generator)[:, 0]
    else:
        token = log_probs.argmax(dim=-1)
    entropy = -torch.special.xlogy(probs, probs).sum(dim=-1)
    return token, log_probs.gather(1, token[:, None])[:, 0], entropy
