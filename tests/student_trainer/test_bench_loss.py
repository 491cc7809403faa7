import json

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deploy.cli import main
from student_trainer import log_probs
from student_trainer.bench_loss import chunked_scores, naive_scores

FIGURES = {
    "peak_bytes_naive",
    "peak_bytes",
    "memory_ratio",
    "seconds_naive",
    "seconds",
    "time_ratio",
    "max_abs_diff",
    "grad_norm_diff",
}


def test_the_command_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    # Large enough for the naive way's copies to stand out from what an allocator does.
    size = ["--vocab", "20000", "--tokens", "400", "--hidden", "8", "--support", "3"]
    assert main(["bench", "loss", *size, "--entropy", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == FIGURES
    logits = 4 * 20_000 * 400
    assert figures["peak_bytes_naive"] > 3 * logits
    assert figures["memory_ratio"] == figures["peak_bytes"] / figures["peak_bytes_naive"]
    assert figures["max_abs_diff"] < 1e-4
    assert figures["grad_norm_diff"] < 1e-4


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_tensor_of_all_logits_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    vocab, tokens, rows = 101, 40, 8
    monkeypatch.setattr(log_probs, "CHUNK_BYTES", 4 * vocab * rows)
    head = nn.Linear(4, vocab)
    hidden = torch.randn(tokens, 4, requires_grad=True)
    targets, support = torch.randint(vocab, (tokens,)), torch.randint(vocab, (tokens, 3))
    largest = {}
    for way in (naive_scores, chunked_scores):
        with LargestTensor() as seen:
            scores = way(hidden, head, targets, support, True)
            sum(part.sum() for part in scores if part is not None).backward()
        largest[way] = seen.elements
    assert largest == {naive_scores: tokens * vocab, chunked_scores: rows * vocab}
