"""Group scoring with transformers against the naive way: one full forward pass a pair.

Both run in this process on the same model, by turns, with the same bound on batches; the naive way
gets logits at response positions only, so the difference is the shared contexts alone. What is
computed without sharing puts a ceiling on the speed-up (`tokens_naive / tokens_computed`, minus the
head, which costs the same both ways).
"""

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from counterhint.jobs import ScoringJob
from teacher_server.bench.job import GroupShape, group_job
from teacher_server.engines.head import Head
from teacher_server.engines.shared_prefix import GroupScorer
from teacher_server.engines.transformers import load_model


@dataclass(frozen=True, slots=True)
class TransformersFigures:
    """What the benchmark measured."""

    tokens_naive: int
    """Tokens of one full forward pass a pair."""
    tokens_computed: int
    """Tokens with every context computed once."""
    seconds_naive: float
    """Median over the repeats."""
    seconds_ours: float
    """Median over the repeats."""
    speedup: float
    """`seconds_naive / seconds_ours`."""
    max_abs_diff: float
    """Largest difference between the log probs of both ways."""
    peak_bytes: int
    """Most memory that group scoring made the process hold, model and libraries included (on a
    GPU: that torch held there)."""


def bench_transformers(
    folder: Path, shape: GroupShape, max_batch_tokens: int, repeats: int
) -> TransformersFigures:
    """Scores a job both ways, by turns, after one round to warm up.

    Raises:
        InputError: the model or the shape cannot be used.
    """
    model = load_model(folder)
    job = group_job(shape, model.config.get_text_config().vocab_size)
    scorer = GroupScorer(model, max_batch_tokens)
    scorer.score(job)
    peak_bytes = _peak_bytes(model.device)
    naive, ours = [], []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        expected = score_naively(model, job, max_batch_tokens)
        middle = time.perf_counter()
        sampled = scorer.score(job).sampled
        naive.append(middle - start)
        ours.append(time.perf_counter() - middle)
    assert sampled is not None
    seconds_naive, seconds_ours = statistics.median(naive[1:]), statistics.median(ours[1:])
    return TransformersFigures(
        tokens_naive=job.tokens_naive,
        tokens_computed=job.tokens_computed,
        seconds_naive=seconds_naive,
        seconds_ours=seconds_ours,
        speedup=seconds_naive / seconds_ours,
        max_abs_diff=float(np.abs(sampled - expected).max()),
        peak_bytes=peak_bytes,
    )


@torch.inference_mode()
def score_naively(
    model: PreTrainedModel, job: ScoringJob, max_batch_tokens: int
) -> NDArray[np.float32]:
    """Log probs `[N]` of a job's pairs, each by a full forward pass over context and response.

    The top k that a job asks for is computed as well, and dropped.
    """
    head = Head(model)
    output = np.empty(int(job.pair_lengths.sum()), dtype=np.float32)
    starts = np.cumsum(job.pair_lengths) - job.pair_lengths
    lengths = job.context_lengths[job.pairs[:, 0]] + job.pair_lengths
    order = np.argsort(lengths, kind="stable")
    rows = max(1, max_batch_tokens // int(lengths.max()))
    for first in range(0, len(order), rows):
        batch = order[first : first + rows]
        ids = torch.zeros(len(batch), int(lengths[batch].max()), dtype=torch.long)
        attended, read = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, pair in enumerate(batch):
            context, response = job.pairs[pair]
            tokens = np.concatenate([job.contexts[context], job.responses[response]])
            ids[row, : len(tokens)] = torch.from_numpy(tokens)
            attended[row, : len(tokens)] = 1
            read[row, len(job.contexts[context]) - 1 : len(tokens) - 1] = True
        hidden = model.base_model(
            input_ids=ids.to(model.device),
            attention_mask=attended.to(model.device),
            use_cache=False,
        ).last_hidden_state[read.to(model.device)]
        targets = torch.from_numpy(
            np.concatenate([job.responses[job.pairs[pair, 1]] for pair in batch]).astype(np.int64)
        ).to(model.device)
        scores = head.score(hidden, targets, top_k=job.outputs.top_k).sampled.cpu().numpy()
        positions = [np.arange(starts[p], starts[p] + job.pair_lengths[p]) for p in batch]
        output[np.concatenate(positions)] = scores
    return output


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB
