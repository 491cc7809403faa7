"""The built-in sampler: batched, with a key-value cache, on the student's own weights.

Each prompt is read once and its cache expanded over the prompt's samples. A row that has ended
leaves the batch, and a group is handed over as soon as its last row has ended, so that it can be
scored while the others are still being sampled.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from counterhint.errors import EngineFailure
from counterhint.tensors import TokenIds
from student_trainer.config import Config
from student_trainer.log_probs import LogitMap
from student_trainer.models import Student
from student_trainer.rollouts.base import Sample, Sampler, SamplingRequest


class BuiltInSamplerConfig(Config):
    """The trainer's own model samples, between two updates."""

    kind: Literal["built_in"] = "built_in"
    """The sampler's name."""

    def build(self, student: Student) -> "BuiltInSampler":
        """The sampler of a student."""
        return BuiltInSampler(student)


class BuiltInSampler(Sampler):
    """Samples responses from the student's live model.

    The same request gives the same samples as long as prompts, weights and device are the same.

    Args:
        student: whose model is in evaluation mode.
    """

    reads_student: ClassVar[bool] = True
    overlaps: ClassVar[bool] = False

    def __init__(self, student: Student) -> None:
        self._student = student
        self._model: PreTrainedModel = student.model
        self._end_ids = torch.tensor(sorted(set(student.end_ids())), device=student.device)
        self._revision = 0

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], revision: int) -> None:
        """Notes the revision: the weights themselves are the student's own."""
        self._revision = revision

    def close(self) -> None:
        """Does nothing: the model is the student's."""

    def sample_groups(
        self, prompts: Sequence[TokenIds], request: SamplingRequest
    ) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """See `Sampler.sample_groups`; it draws in waves of `max_rows // group_size` prompts."""
        generator = torch.Generator(device=self._student.device).manual_seed(request.seed)
        wave = max(1, request.max_rows // request.group_size)
        for start in range(0, len(prompts), wave):
            for index, samples in self._sample_wave(
                prompts[start : start + wave], request, generator
            ):
                yield start + index, samples

    def _sample_wave(
        self, prompts: Sequence[TokenIds], request: SamplingRequest, generator: torch.Generator
    ) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        device = self._student.device
        wave = _Wave(len(prompts), request, self._revision, device)
        cache, hidden, mask = self._read_prompts(
            prompts, request.group_size, request.max_new_tokens
        )
        rows = torch.arange(wave.rows, device=device)
        position = mask.sum(dim=1)
        width = mask.shape[1] - request.max_new_tokens
        for step in range(request.max_new_tokens):
            if self._revision != wave.revision:
                raise EngineFailure(
                    "the student was updated while groups were being sampled from it",
                    reason="WEIGHTS_CHANGED",
                )
            token = wave.draw(rows, step, self._logits(hidden, request.temperature), generator)
            ended = torch.isin(token, self._end_ids)
            if bool(ended.any()):
                yield from wave.end(rows[ended], step + 1)
                stay = (~ended).nonzero()[:, 0]
                rows, token, position, mask = rows[stay], token[stay], position[stay], mask[stay]
                if not len(rows):
                    return
                cache.batch_select_indices(stay)
            if step + 1 == request.max_new_tokens:
                break
            mask[:, width + step] = 1
            hidden = self._forward(token, mask[:, : width + step + 1], position, cache)
            position = position + 1
        yield from wave.cut()

    @torch.no_grad()
    def _logits(self, hidden: Tensor, temperature: float) -> Tensor:
        """The logits `[rows, V]` of the distribution to draw from."""
        with self._student.autocast():
            logits: Tensor = self._model.get_output_embeddings()(hidden)
        return LogitMap.of(self._model, temperature or 1.0).apply_(logits.float())

    @torch.no_grad()
    def _forward(
        self, token: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache
    ) -> Tensor:
        """The hidden states `[rows, H]` of one more token a row."""
        with self._student.autocast():
            output = self._model.base_model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=position[:, None],
                past_key_values=cache,
                use_cache=True,
            )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    @torch.no_grad()
    def _read_prompts(
        self, prompts: Sequence[TokenIds], group_size: int, max_new_tokens: int
    ) -> tuple[DynamicCache, Tensor, Tensor]:
        """One pass over the prompts, left-padded; cache, last hidden states, mask `[rows, S]`."""
        device = self._student.device
        width = max(map(len, prompts))
        ids = self._end_ids.new_full((len(prompts), width), int(self._end_ids[0]))
        mask = torch.zeros(len(prompts), width + max_new_tokens, dtype=torch.long, device=device)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            mask[row, width - len(prompt) : width] = 1
        cache = DynamicCache()
        with self._student.autocast():
            output = self._model.base_model(
                input_ids=ids,
                attention_mask=mask[:, :width],
                position_ids=(mask[:, :width].cumsum(dim=1) - 1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
            )
        hidden = output.last_hidden_state[:, -1]
        cache.batch_repeat_interleave(group_size)
        return (
            cache,
            hidden.repeat_interleave(group_size, dim=0),
            mask.repeat_interleave(group_size, dim=0),
        )


class _Wave:
    """What has been drawn for the prompts of one wave; a row is one response."""

    def __init__(
        self, prompts: int, request: SamplingRequest, revision: int, device: torch.device
    ) -> None:
        self._request = request
        self.revision = revision
        self.rows = prompts * request.group_size
        shape = self.rows, request.max_new_tokens
        self._ids = torch.zeros(shape, dtype=torch.int32, device=device)
        self._log_probs = torch.zeros(shape, device=device)
        self._entropies = torch.zeros(shape, device=device)
        self._top_k_ids = torch.zeros(*shape, request.top_k, dtype=torch.int32, device=device)
        self._lengths = np.full(self.rows, request.max_new_tokens)
        self._finished = np.zeros(self.rows, dtype=bool)
        self._running = np.full(prompts, request.group_size)

    @torch.no_grad()
    def draw(self, rows: Tensor, step: int, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Draws and notes the next token of some rows, `[R]`, from their logits `[R, V]`."""
        log_probs = _truncated(logits.log_softmax(dim=-1), self._request)
        probs = log_probs.exp()
        if self._request.temperature:
            token = torch.multinomial(probs, 1, generator=generator)[:, 0]
        else:
            token = log_probs.argmax(dim=-1)
        self._ids[rows, step] = token.int()
        self._log_probs[rows, step] = log_probs.gather(1, token[:, None])[:, 0]
        self._entropies[rows, step] = -torch.special.xlogy(probs, probs).sum(dim=-1)
        if self._request.top_k:
            best = log_probs.topk(self._request.top_k, dim=-1).indices
            self._top_k_ids[rows, step] = best.int()
        return token

    def end(self, rows: Tensor, length: int) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """Notes that rows have ended by themselves; yields the groups that this completes."""
        ended = rows.cpu().numpy()
        self._lengths[ended], self._finished[ended] = length, True
        groups, leaving = np.unique(ended // self._request.group_size, return_counts=True)
        self._running[groups] -= leaving
        for group in groups[self._running[groups] == 0].tolist():
            yield group, self._samples(group)

    def cut(self) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """Yields the groups in which rows have not ended when the longest length is reached."""
        for group in np.flatnonzero(self._running > 0).tolist():
            yield group, self._samples(group)

    def _samples(self, group: int) -> tuple[Sample, ...]:
        size = self._request.group_size
        rows = slice(group * size, (group + 1) * size)
        ids, log_probs, entropies, top_k_ids = (
            values[rows].cpu().numpy()
            for values in (self._ids, self._log_probs, self._entropies, self._top_k_ids)
        )
        return tuple(
            Sample(
                token_ids=ids[row, :length].copy(),
                log_probs=log_probs[row, :length].copy(),
                entropies=entropies[row, :length].copy(),
                finished=finished,
                top_k_ids=top_k_ids[row, :length].copy() if self._request.top_k else None,
                revision=self.revision,
            )
            for row, (length, finished) in enumerate(
                zip(self._lengths[rows].tolist(), self._finished[rows].tolist(), strict=True)
            )
        )


def _truncated(log_probs: Tensor, request: SamplingRequest) -> Tensor:
    """The distributions `[R, V]` that are drawn from: those of the tokens that the request leaves,
    normalised again."""
    if request.draw_top_k:
        kept = log_probs.topk(min(request.draw_top_k, log_probs.shape[-1]), dim=-1).values
        log_probs = log_probs.masked_fill(log_probs < kept[:, -1:], -torch.inf)
        log_probs = log_probs.log_softmax(dim=-1)
    if request.draw_top_p < 1:
        ordered, order = log_probs.sort(dim=-1, descending=True)
        probs = ordered.exp()
        beyond = probs.cumsum(dim=-1) - probs >= request.draw_top_p
        dropped = torch.zeros_like(beyond).scatter(-1, order, beyond)
        log_probs = log_probs.masked_fill(dropped, -torch.inf).log_softmax(dim=-1)
    return log_probs
