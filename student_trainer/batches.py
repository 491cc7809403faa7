"""Training batches: what a step learns from, cut into micro-batches by a token budget."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    """Optimizer updates that a step's rollouts are divided over; each rank divides its own."""
    packing: bool = False
    """Rows stand one after another in one sequence, without padding, instead of side by side. Pays
    with flash attention; others compute the attention of all rows to all and mask it."""


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
class TokenBatch:
    """The tokens of a pass: B sequences of S positions, with N response tokens in them.

    Either B padded rows with an attention mask, or one packed sequence (B = 1) without.
    """

    input_ids: Tensor
    """int64 `[B, S]`: prompt and response, padded at the end; or row after row."""
    position_ids: Tensor
    """int64 `[B, S]`: positions within the row."""
    attention_mask: Tensor | None
    """int64 `[B, S]`: 1 for tokens, 0 for padding; None when packed."""
    predicting: Tensor
    """int64 `[N]`: indices into the flattened `[B · S]` positions whose hidden states predict the
    response tokens, row after row."""
    targets: Tensor
    """int64 `[N]`: the response tokens."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some rows of a batch: B rows, T positions of response (padded at the end)."""

    rows: Sequence[Row]
    """The rows."""
    tokens: TokenBatch
    """What the model reads."""
    targets: Targets
    """What the loss compares with, `[B, T]`."""

    def to_rows(self, flat: Tensor) -> Tensor:
        """Values of the N response tokens, `[N]` or `[N, k]`, as padded rows `[B, T]` or
        `[B, T, k]`. The padding is an ordinary log prob and carries no gradient."""
        mask, tail = self.targets.mask, flat.shape[1:]
        fill = even_log_prob(*tail) if tail else STAND_IN
        mask = mask.reshape(mask.shape + (1,) * len(tail)).expand(*mask.shape, *tail)
        return flat.new_full(mask.shape, fill).masked_scatter(mask, flat)

    def to_flat(self, rows: Tensor) -> Tensor:
        """The inverse: `[B, T]` or `[B, T, k]` without the padding, `[N]` or `[N, k]`."""
        return rows[self.targets.mask]


STAND_IN = -1.0
"""Stands where there is no log prob: masked, and finite, so that arithmetic on it makes no NaN."""


def even_log_prob(k: int) -> float:
    """Stands where there are no log probs of k support tokens: the even distribution over them and
    the rest, so that arithmetic on it (the tail's log prob) makes no NaN."""
    return -math.log(k + 1)


def shuffled_parts(rows: Sequence[Row], parts: int, seed: int) -> list[list[Row]]:
    """The rows in random order, divided into that many parts of nearly equal size."""
    order = np.random.default_rng(seed).permutation(len(rows)) if parts > 1 else range(len(rows))
    return [[rows[index] for index in part] for part in np.array_split(np.array(order, int), parts)]


def micro_batches(
    rows: Sequence[Row], config: BatchConfig, device: torch.device, *, step: int
) -> Iterator[MicroBatch]:
    """Cuts the rows of an update into micro-batches of at most `micro_batch_tokens`, longest rows
    first.

    All of them carry the same fields of `Targets`: those that any row carries, or, where no row
    has the teacher's scores, every field, with nothing scored.

    Args:
        rows: the rows.
        config: how they are cut.
        device: where the tensors go.
        step: the training step, from 1.

    Raises:
        ValueError: a row's numbers do not fit together: NaN where its teacher is said to have
            scored, rows with supports of several sizes, or a prompt without tokens.
    """
    fields = _Fields.of(rows)
    piece: list[Row] = []
    used = 0
    for row in sorted(rows, key=lambda row: -row.tokens):
        # The first row of a padded piece is its longest.
        cost = row.tokens if config.packing or not piece else piece[0].tokens
        if piece and used + cost > config.micro_batch_tokens:
            yield _micro_batch(piece, fields, config.packing, device, step)
            piece, used, cost = [], 0, row.tokens
        piece.append(row)
        used += cost
    if piece:
        yield _micro_batch(piece, fields, config.packing, device, step)


def _micro_batch(
    rows: Sequence[Row], fields: "_Fields", packing: bool, device: torch.device, step: int
) -> MicroBatch:
    return MicroBatch(rows, _tokens(rows, packing, device), _targets(rows, fields, device, step))


def _tokens(rows: Sequence[Row], packing: bool, device: torch.device) -> TokenBatch:
    lengths = np.array([row.tokens for row in rows])
    if packing:
        shape = (1, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
    else:
        shape = (len(rows), int(lengths.max()))
        starts = np.arange(len(rows)) * shape[1]
    input_ids = np.zeros(shape[0] * shape[1], dtype=np.int64)
    attended = np.zeros_like(input_ids)
    positions = np.zeros_like(input_ids) if packing else np.tile(np.arange(shape[1]), shape[0])
    predicting, targets = [], []
    for row, start in zip(rows, starts, strict=True):
        prompt, end = len(row.prompt), start + row.tokens
        if not prompt:
            raise ValueError("a row has a prompt without tokens, so nothing predicts its response")
        input_ids[start : start + prompt] = row.prompt
        input_ids[start + prompt : end] = row.rollout.token_ids
        attended[start:end] = 1
        positions[start:end] = np.arange(row.tokens)
        # The hidden state of a position predicts the next token.
        predicting.append(np.arange(start + prompt - 1, end - 1))
        targets.append(row.rollout.token_ids.astype(np.int64))

    def tensor(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return TokenBatch(
        tensor(input_ids.reshape(shape)),
        tensor(positions.reshape(shape)),
        None if packing else tensor(attended.reshape(shape)),
        tensor(np.concatenate(predicting)),
        tensor(np.concatenate(targets)),
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """Which fields the targets of an update have, and how wide they are."""

    names: frozenset[str]
    """Names of the fields of `TeacherScores` that rows carry."""
    support: int
    """Support tokens, k."""
    importance: bool
    """Whether rows have importance weights."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Fields":
        scores = [row.teacher for row in rows if row.teacher is not None]
        names = {
            name
            for name in TeacherScores.__slots__
            if not scores or any(getattr(score, name) is not None for score in scores)
        }
        widths = {score.support_ids.shape[1] for score in scores if score.support_ids is not None}
        if len(widths) > 1:
            raise ValueError(f"rows have supports of several sizes: {sorted(widths)}")
        weighted = {row.importance is not None for row in rows}
        if len(weighted) > 1:
            raise ValueError("some rows have importance weights and others have none")
        return cls(frozenset(names), max(widths, default=0), True in weighted)


def _targets(rows: Sequence[Row], fields: _Fields, device: torch.device, step: int) -> Targets:
    longest = max(len(row.rollout.token_ids) for row in rows)
    shape, k = (len(rows), longest), fields.support
    wrong_of = [None if row.teacher is None else row.teacher.wrong for row in rows]
    hints = max((len(wrong) for wrong in wrong_of if wrong is not None), default=0)
    mask, scored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    wrong_valid = np.zeros((len(rows), hints), dtype=bool)
    old = np.full(shape, STAND_IN, dtype=np.float32)
    importance = np.zeros(shape, dtype=np.float32)
    # Stand-ins where nothing is scored: see STAND_IN. Support tokens are distinct, since a
    # student's probabilities of one token many times would add up to more than 1.
    teacher: dict[str, NDArray[Any]] = {
        "sampled": np.full(shape, STAND_IN, dtype=np.float32),
        "wrong": np.full((len(rows), hints, longest), STAND_IN, dtype=np.float32),
        "support_ids": np.tile(np.arange(k, dtype=np.int64), (*shape, 1)),
        "support": np.full((*shape, k), even_log_prob(k), dtype=np.float32),
        "wrong_support": np.full((*shape, k), even_log_prob(k), dtype=np.float32),
        "entropy": np.zeros(shape, dtype=np.float32),
    }
    for index, row in enumerate(rows):
        length = len(row.rollout.token_ids)
        mask[index, :length] = True
        old[index, :length] = row.old_log_probs
        if row.importance is not None:
            importance[index, :length] = row.importance
        if row.teacher is None:
            continue
        known = row.teacher.scored
        scored[index, :length] = known
        for name, array in teacher.items():
            values = getattr(row.teacher, name)
            if values is None:
                continue
            if name == "wrong":
                wrong_valid[index, : len(values)] = True
                place = array[index, : len(values), :length]
                place[:, known] = values[:, known]
            else:
                place = array[index, :length]
                place[known] = values[known]
            if np.isnan(place).any():
                raise ValueError(f"the teacher's scores ({name}) are NaN where they should exist")

    def tensor(array: NDArray[Any], present: bool = True) -> Tensor | None:
        return torch.from_numpy(array).to(device) if present else None

    def of_teacher(name: str) -> Tensor | None:
        return tensor(teacher[name], name in fields.names)

    return Targets(
        mask=torch.from_numpy(mask).to(device),
        advantages=torch.tensor([[row.advantage] for row in rows], dtype=torch.float32).to(device),
        old_log_probs=torch.from_numpy(old).to(device),
        step=step,
        scored=tensor(scored),
        teacher=of_teacher("sampled"),
        wrong=of_teacher("wrong"),
        wrong_valid=tensor(wrong_valid, "wrong" in fields.names),
        support_ids=of_teacher("support_ids"),
        teacher_support=of_teacher("support"),
        wrong_support=of_teacher("wrong_support"),
        teacher_entropy=of_teacher("entropy"),
        importance=tensor(importance, fields.importance),
    )
