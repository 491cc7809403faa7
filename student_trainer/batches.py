"""Training batches: what a step learns from, cut into micro-batches by a token budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from counterhint.tensors import TokenIds
from student_trainer.config import Config
from student_trainer.groups import Rollout
from student_trainer.losses import Targets
from student_trainer.scoring import TeacherScores


class BatchConfig(Config):
    """How a step's rollouts are cut into pieces."""

    micro_batch_tokens: int = Field(16_384, ge=1)
    """Most tokens, padding included, in one pass; a row longer than that stands alone."""
    updates_per_step: int = Field(1, ge=1)
    """Optimizer updates that a step's rollouts are divided over."""


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout with all that a loss needs to know of it."""

    prompt: TokenIds
    """int32 `[P]`."""
    rollout: Rollout
    """The rollout, T tokens."""
    advantage: float
    """Its group-relative advantage."""
    teacher: TeacherScores | None
    """What the teacher says; None where it has no hints, or the method needs no teacher."""
    old_log_probs: NDArray[np.float32]
    """`[T]`: the student's log probs before the step's updates: the sampler's, or the trainer's own
    where the sampler's are corrected for."""
    importance: NDArray[np.float32] | None = None
    """`[T]`: importance weights between sampler and trainer."""

    @property
    def tokens(self) -> int:
        """Prompt and response tokens."""
        return len(self.prompt) + len(self.rollout.token_ids)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of similar length, padded; B rows, S positions of prompt and response, T of response."""

    input_ids: Tensor
    """`[B, S]`: prompt and response, padded at the end."""
    lengths: Tensor
    """`[B]`: tokens of each row."""
    response_mask: Tensor
    """bool `[B, S]`: the response tokens."""
    targets: Targets
    """What the loss compares with, `[B, T]`."""

    def to_rows(self, flat: Tensor) -> Tensor:
        """Values of the response tokens one after another, `[N]`, as padded rows `[B, T]`."""
        return torch.zeros(self.targets.mask.shape, device=flat.device).masked_scatter(
            self.targets.mask, flat
        )


def shuffled_parts(rows: Sequence[Row], parts: int, seed: int) -> list[list[Row]]:
    """The rows in random order, divided into that many parts of nearly equal size."""
    order = np.random.default_rng(seed).permutation(len(rows)) if parts > 1 else range(len(rows))
    return [[rows[index] for index in part] for part in np.array_split(np.array(order, int), parts)]


def micro_batches(
    rows: Sequence[Row], max_tokens: int, device: torch.device
) -> Iterator[MicroBatch]:
    """Cuts rows into micro-batches of at most `max_tokens` padded tokens, longest rows first."""
    piece: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.tokens):
        if piece and piece[0].tokens * (len(piece) + 1) > max_tokens:
            yield _pad(piece, device)
            piece = []
        piece.append(row)
    if piece:
        yield _pad(piece, device)


def _pad(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    total = max(row.tokens for row in rows)
    longest = max(len(row.rollout.token_ids) for row in rows)
    hints = max(
        (
            len(row.teacher.wrong)
            for row in rows
            if row.teacher is not None and row.teacher.wrong is not None
        ),
        default=0,
    )
    count = len(rows)
    input_ids = np.zeros((count, total), dtype=np.int64)
    response = np.zeros((count, total), dtype=bool)
    mask = np.zeros((count, longest), dtype=bool)
    old = np.zeros((count, longest), dtype=np.float32)
    scored = np.zeros((count, longest), dtype=bool)
    teacher = np.zeros((count, longest), dtype=np.float32)
    wrong = np.zeros((count, hints, longest), dtype=np.float32)
    wrong_valid = np.zeros((count, hints), dtype=bool)
    for index, row in enumerate(rows):
        prompt, length = len(row.prompt), len(row.rollout.token_ids)
        input_ids[index, :prompt] = row.prompt
        input_ids[index, prompt : row.tokens] = row.rollout.token_ids
        response[index, prompt : row.tokens] = True
        mask[index, :length] = True
        old[index, :length] = row.old_log_probs
        if row.teacher is not None:
            scored[index, :length] = row.teacher.scored
            if row.teacher.sampled is not None:
                teacher[index, :length] = row.teacher.sampled
            if row.teacher.wrong is not None:
                wrong[index, : len(row.teacher.wrong), :length] = row.teacher.wrong
                wrong_valid[index, : len(row.teacher.wrong)] = True

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return MicroBatch(
        input_ids=tensor(input_ids),
        lengths=torch.tensor([row.tokens for row in rows], device=device),
        response_mask=tensor(response),
        targets=Targets(
            mask=tensor(mask),
            advantages=torch.tensor([[row.advantage] for row in rows], device=device).float(),
            old_log_probs=tensor(old),
            scored=tensor(scored),
            teacher=tensor(teacher),
            wrong=tensor(wrong),
            wrong_valid=tensor(wrong_valid),
        ),
    )
