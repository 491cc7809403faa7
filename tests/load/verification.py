"""Scores that the soak kept, against one plain full forward pass a pair by transformers itself."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from counterhint.jobs import ScoringJob
from tests.load.traffic import make_job, snapshot_file, snapshot_of
from tests.teacher_server.jobs import given_of_pairs, plain_log_probs, tokens_of_pairs


def differences(samples: Path, model: Path, weights: Path) -> Iterator[tuple[str, int, float]]:
    """The largest difference of each job that was kept.

    Args:
        samples: folder of the arrays that trainers kept, `RUN-NUMBER.npz`.
        model: the teacher's folder.
        weights: folder of the snapshots.

    Yields:
        The job's id, how many numbers were compared, and the largest difference in nats.
    """
    models: dict[Path, AutoModelForCausalLM] = {}
    for file in sorted(samples.iterdir()):
        run, number = map(int, file.stem.split("-"))
        snapshot = snapshot_of(run, number)
        folder = snapshot_file(weights, run, snapshot).parent if snapshot else model
        if folder not in models:
            models[folder] = AutoModelForCausalLM.from_pretrained(folder).eval()
        # Neither the fingerprint nor the name of the weights changes the tokens.
        job = make_job(run, number, "", None)
        kept: dict[str, NDArray[np.generic]] = dict(np.load(file))
        compared, largest = _compare(job, kept, plain_log_probs(models[folder], job))
        yield job.id, compared, largest


def _compare(
    job: ScoringJob, kept: dict[str, NDArray[np.generic]], plain: NDArray[np.float32]
) -> tuple[int, float]:
    """How many numbers were compared, and the largest difference.

    Args:
        job: what was scored.
        kept: the arrays of its result by name.
        plain: `[N, V]`.
    """
    expected = {
        "sampled": plain[np.arange(len(plain)), tokens_of_pairs(job)],
        "top_k_log_probs": -np.sort(-plain, axis=1)[:, : job.outputs.top_k],
        "entropy": -(np.exp(plain) * plain).sum(axis=1),
    }
    if "top_k_ids" in kept:  # of equally probable tokens, either may come first
        ids = kept.pop("top_k_ids").astype(np.int64)
        expected["top_k_log_probs of the ids"] = np.take_along_axis(plain, ids, axis=1)
        kept["top_k_log_probs of the ids"] = kept["top_k_log_probs"]
    if job.token_ids is not None:
        expected["given"] = np.take_along_axis(plain, given_of_pairs(job), axis=1)
    compared, largest = 0, 0.0
    for name, numbers in kept.items():
        compared += numbers.size
        largest = max(largest, float(np.abs(numbers - expected[name]).max()))
    return compared, largest
