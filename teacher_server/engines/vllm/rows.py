"""Scores of response rows as one array: what vLLM's worker computes and the server reads.

A *row* is a position of the sequence whose hidden state predicts the next token; a response of `T`
tokens behind a context of `C` is predicted by the rows `C − 1` to `C + T − 2`. The worker gets a
`RowsWanted` with each request and sends one float32 array `[T + 1, columns]` back: log prob of the
token itself, those of the given ids, the entropy, the `k` best log probs, and the `k` best ids as
the bits of int32. Its last row begins with the seconds that the request took in the runner's steps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterhint.jobs import Outputs, Scores
from teacher_server.engines.head import LEAST_ROWS, LOGIT_CHUNK, score_logits

SCORING_START = "counterhint_start"
"""The key in a vLLM request's `extra_args` under which the first row to be scored stands."""
ROWS_WANTED = "counterhint_rows"
"""The key in a vLLM request's `extra_args` under which its `RowsWanted` stands."""
GPU_LOGITS = 2**27
"""Logits that are held at once on a GPU, which wants larger products than a CPU: 512 MiB."""


@dataclass(frozen=True, slots=True)
class RowsWanted:
    """What a request wants to know about its response."""

    start: int
    """The first row: the context's length − 1."""
    top_k: int = 0
    """How many of the most probable ids."""
    entropy: bool = False
    """Whether the entropy."""
    given: bytes = b""
    """The ids to score at each row, int32 `[T, n]`."""
    given_width: int = 0
    """Their `n`."""

    @property
    def columns(self) -> int:
        """Width of the array that comes back."""
        return 1 + self.given_width + self.entropy + 2 * self.top_k

    def to_list(self) -> list[Any]:
        """As it travels to the worker."""
        return [self.start, self.top_k, self.entropy, self.given, self.given_width]


@dataclass(slots=True)
class RowsUnderWay:
    """The rows of one request, computed chunk by chunk."""

    wanted: RowsWanted
    tokens: Tensor
    """int64 `[T]`: the response."""
    given: Tensor | None
    """int64 `[T, n]`."""
    scores: Tensor
    """float32 `[T + 1, columns]`, on the CPU; the last row is for `seconds`."""
    next_row: int
    """Rows before it are computed."""
    complete: bool = True
    """Whether every row so far was computed; false when one was skipped by a cache hit."""
    seconds: float = 0.0
    """Its share of the steps so far, by tokens."""

    def reply(self) -> Tensor:
        """What is sent back."""
        self.scores[-1, 0] = self.seconds
        return self.scores


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one request that a step has hidden states for."""

    request: RowsUnderWay
    first: int
    """Index of the first row among the request's, from 0."""
    last: int
    """Index after the last."""
    hidden: Tensor
    """`[last − first, H]`."""


def begin(wanted: RowsWanted, prompt: Sequence[int], device: torch.device) -> RowsUnderWay:
    """Room for a request's scores.

    Args:
        wanted: what it asked for.
        prompt: context and response.
        device: where scores are computed.
    """
    response = prompt[wanted.start + 1 :]
    given = None
    if wanted.given_width:
        ids = np.frombuffer(wanted.given, "<i4").reshape(len(response), wanted.given_width)
        given = torch.from_numpy(ids.astype(np.int64)).to(device)
    return RowsUnderWay(
        wanted,
        torch.tensor(response, dtype=torch.int64, device=device),
        given,
        torch.full((len(response) + 1, wanted.columns), torch.nan),
        next_row=0,
    )


def score_chunks(chunks: Iterable[Chunk], logits_of: Callable[[Tensor], Tensor | None]) -> None:
    """Fills in the scores of chunks; those that want the same columns are computed together.

    Args:
        chunks: of one step.
        logits_of: the model's head, `[n, H]` → `[n, V]`; None on ranks that hold no logits.
    """

    def shape(chunk: Chunk) -> tuple[int, bool, int]:
        wanted = chunk.request.wanted
        return wanted.top_k, wanted.entropy, wanted.given_width

    for (top_k, entropy, width), group in groupby(sorted(chunks, key=shape), shape):
        alike = list(group)
        hidden = torch.cat([chunk.hidden for chunk in alike])
        tokens = torch.cat([chunk.request.tokens[chunk.first : chunk.last] for chunk in alike])
        given = None
        if width:
            given = torch.cat(
                [chunk.request.given[chunk.first : chunk.last] for chunk in alike]  # type: ignore[index]
            )
        scores = _score(hidden, tokens, given, top_k, entropy, logits_of)
        if scores is None:
            continue
        parts = scores.cpu().split([chunk.last - chunk.first for chunk in alike])
        for chunk, part in zip(alike, parts, strict=True):
            chunk.request.scores[chunk.first : chunk.last] = part


def _score(
    hidden: Tensor,
    tokens: Tensor,
    given: Tensor | None,
    top_k: int,
    entropy: bool,
    logits_of: Callable[[Tensor], Tensor | None],
) -> Tensor | None:
    """`[n, columns]` on the device of `hidden`."""
    parts: list[Tensor] = []
    start, rows = 0, LEAST_ROWS  # of which the first tell how large the vocabulary is
    while start < len(hidden):
        stop = start + rows
        logits = logits_of(hidden[start:stop])
        if logits is None:
            return None
        scores = score_logits(
            logits.float(),
            tokens[start:stop],
            None if given is None else given[start:stop],
            top_k,
            entropy,
        )
        columns = [scores.sampled[:, None]]
        if scores.given is not None:
            columns.append(scores.given)
        if scores.entropy is not None:
            columns.append(scores.entropy[:, None])
        if scores.top_k_ids is not None and scores.top_k_log_probs is not None:
            ids = scores.top_k_ids.to(torch.int32).view(torch.float32)
            columns += [scores.top_k_log_probs, ids]
        parts.append(torch.cat(columns, dim=1))
        most = LOGIT_CHUNK if hidden.device.type == "cpu" else GPU_LOGITS
        start, rows = stop, max(LEAST_ROWS, most // logits.shape[1])
    return torch.cat(parts)


def read_rows(rows: NDArray[np.float32], outputs: Outputs, given_width: int) -> Scores:
    """The scores in a worker's array `[T + 1, columns]`."""
    rows = rows[:-1]
    entropy = 1 + given_width
    best = entropy + outputs.entropy
    ids = best + outputs.top_k
    top_k_ids = np.ascontiguousarray(rows[:, ids : ids + outputs.top_k]).view(np.int32)
    return Scores(
        sampled=rows[:, 0] if outputs.sampled else None,
        top_k_ids=top_k_ids if outputs.top_k else None,
        top_k_log_probs=rows[:, best:ids] if outputs.top_k else None,
        given=rows[:, 1:entropy] if given_width else None,
        entropy=rows[:, entropy] if outputs.entropy else None,
    )


def read_seconds(rows: NDArray[np.float32]) -> float:
    """The request's seconds in the runner's steps, from a worker's array."""
    return float(rows[-1, 0])
