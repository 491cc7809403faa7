"""Measures the log probs' memory and time, forward and backward, against the naive way: the whole
softmax.

Each way runs in a child process of its own, so that what one has held does not hide what the other
needs. Peaks are those above what the process holds before the pass: libraries, hidden states and
the head's weight. Both ways hold the gradients of hidden states and weight at their end, and the
peaks include them.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from counterhint.errors import InputError
from student_trainer.log_probs import LogitMap, TokenScores, token_scores

Way = Literal["naive", "chunked"]


@dataclass(frozen=True, slots=True)
class LossSize:
    """What is measured."""

    vocab: int
    """Tokens of the vocabulary, V."""
    tokens: int
    """Response tokens, N."""
    hidden: int
    """Hidden size, H."""
    support: int
    """Support tokens a position; 0 for none."""
    entropy: bool
    """Whether the entropy is in the loss."""
    device: str
    """Where it runs."""


@dataclass(frozen=True, slots=True)
class WayFigures:
    """What one way took."""

    peak_bytes: int
    """Most memory above what was held before."""
    seconds: float
    """Forward and backward pass, median of the repeats."""
    log_probs: list[float]
    """Of the sampled tokens."""
    grad_norm: float
    """Norm of the head's gradient."""


@dataclass(frozen=True, slots=True)
class LossFigures:
    """Both ways beside each other."""

    peak_bytes_naive: int
    """Most memory of the naive way."""
    peak_bytes: int
    """Most memory of ours."""
    memory_ratio: float
    """`peak_bytes / peak_bytes_naive`."""
    seconds_naive: float
    """Forward and backward of the naive way, median of the repeats."""
    seconds: float
    """Forward and backward of ours, median of the repeats."""
    time_ratio: float
    """`seconds / seconds_naive`."""
    max_abs_diff: float
    """Largest difference between the log probs of both ways, in nats."""
    grad_norm_diff: float
    """Difference between the norms of the head's gradients, relative."""


def bench_loss(size: LossSize, repeats: int) -> LossFigures:
    """Measures both ways, one after the other.

    Raises:
        InputError: a way's process was ended, most likely for want of memory.
    """
    naive, ours = _measure_apart("naive", size, repeats), _measure_apart("chunked", size, repeats)
    pairs = zip(naive.log_probs, ours.log_probs, strict=True)
    return LossFigures(
        peak_bytes_naive=naive.peak_bytes,
        peak_bytes=ours.peak_bytes,
        memory_ratio=ours.peak_bytes / naive.peak_bytes,
        seconds_naive=naive.seconds,
        seconds=ours.seconds,
        time_ratio=ours.seconds / naive.seconds,
        max_abs_diff=max(abs(a - b) for a, b in pairs),
        grad_norm_diff=abs(ours.grad_norm - naive.grad_norm) / naive.grad_norm,
    )


def _measure_apart(way: Way, size: LossSize, repeats: int) -> WayFigures:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure, way, size, repeats).result()
        except BrokenProcessPool as error:
            copy = 4 * size.tokens * size.vocab / 2**30
            raise InputError(
                f"the {way} way's process was ended, most likely for want of memory: one copy of "
                f"the logits takes {copy:.1f} GiB, and the naive way holds several; give fewer "
                "--tokens"
            ) from error


def measure(way: Way, size: LossSize, repeats: int) -> WayFigures:
    """Measures one way in this process, which should have done nothing else before."""
    device = torch.device(size.device)
    generator = torch.Generator(device).manual_seed(0)
    head = nn.Linear(size.hidden, size.vocab, bias=False, device=device)
    with torch.no_grad():  # in place: a copy would raise the peak before the pass
        head.weight.normal_(std=size.hidden**-0.5, generator=generator)
    hidden = torch.empty(size.tokens, size.hidden, device=device).normal_(generator=generator)
    hidden.requires_grad_()

    def token_ids(*shape: int) -> Tensor:
        return torch.randint(size.vocab, shape, generator=generator, device=device)

    targets = token_ids(size.tokens)
    support = token_ids(size.tokens, size.support) if size.support else None
    weights = torch.empty(size.tokens, device=device).normal_(generator=generator)
    before = _peak_bytes(device)
    seconds = []
    for _ in range(repeats + 1):
        hidden.grad = head.weight.grad = None
        start = time.perf_counter()
        log_probs = _forward_and_backward(
            way, hidden, head, targets, support, size.entropy, weights
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    assert head.weight.grad is not None
    return WayFigures(
        peak_bytes=_peak_bytes(device) - before,
        seconds=statistics.median(seconds[1:]),
        log_probs=log_probs.tolist(),
        grad_norm=float(head.weight.grad.norm()),
    )


def _forward_and_backward(
    way: Way,
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    support: Tensor | None,
    entropy: bool,
    weights: Tensor,
) -> Tensor:
    """A pass of a loss in which every token has its own weight; returns the log probs."""
    score = naive_scores if way == "naive" else chunked_scores
    scores = score(hidden, head, targets, support, entropy)
    loss = (scores.sampled * weights).sum()
    if scores.support is not None:
        loss = loss + (scores.support.exp() * weights[:, None]).sum()
    if scores.entropy is not None:
        loss = loss + (scores.entropy * weights).sum()
    loss.backward()
    return scores.sampled.detach()


def chunked_scores(
    hidden: Tensor, head: nn.Linear, targets: Tensor, support: Tensor | None, entropy: bool
) -> TokenScores:
    """Our way."""
    return token_scores(hidden, head, targets, support, entropy=entropy, logit_map=LogitMap())


def naive_scores(
    hidden: Tensor, head: nn.Linear, targets: Tensor, support: Tensor | None, entropy: bool
) -> TokenScores:
    """The log softmax of all logits at once, `[N, V]` in float32."""
    log_probs = head(hidden).float().log_softmax(-1)
    return TokenScores(
        log_probs.gather(1, targets[:, None])[:, 0],
        None if support is None else log_probs.gather(1, support),
        -(log_probs.exp() * log_probs).sum(-1) if entropy else None,
    )


def _peak_bytes(device: torch.device) -> int:
    """Most memory that this process has held (on a GPU: that torch held there)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss begins with that of the parent process
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
