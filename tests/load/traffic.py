"""What a run sends: every job follows from the run's number and the job's.

An hour of a run is a step every 30 s with 8 groups, a job each. A job is what the trainer sends for
a group of 8 rollouts with a correct and 4 wrong hints each: 8 contexts, 8 responses, 40 pairs.
"""

import hashlib
import random
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from counterhint.jobs import Outputs, ScoringJob, Weights
from teacher_server.bench.job import GroupShape, group_job

STEP_SECONDS = 30
GROUPS_PER_STEP = 8
STEPS_PER_HOUR = 3600 // STEP_SECONDS
JOBS_PER_HOUR = STEPS_PER_HOUR * GROUPS_PER_STEP
GROUP, WRONG_HINTS = 8, 4
CONTEXT_TOKENS, RESPONSE_TOKENS = (32, 64), (8, 24)
"""Shortest and longest; all of a group's are of one length."""
VOCAB_SIZE = 64
"""Of the model of the soak."""
SNAPSHOT_STEPS = 10
"""Steps between two refreshes of the teacher's weights, in every fourth run."""
SAMPLE_EVERY = 40
"""One of so many jobs is checked against plain forward passes."""

OUTPUTS = (
    Outputs(),
    Outputs(top_k=16),
    Outputs(entropy=True),
    Outputs(top_k=4, given=True, entropy=True),
)
"""What a run asks for, by its number."""
GIVEN_IDS = 2


class Kind(StrEnum):
    """How a job is sent."""

    ONCE = "once"
    """As a trainer does."""
    TWICE = "twice"
    """By two calls at the same time, with the same id."""
    AGAIN = "again"
    """Once more after its result, with the same id."""
    TWIN = "twin"
    """With the content of the job before: caches may answer it."""
    CANCELLED = "cancelled"
    """An operator cancels it as soon as the queue knows it."""
    DEADLINE = "deadline"
    """On a stream, with `DEADLINE_SECONDS`."""
    REFUSED = "refused"
    """With a token id that the vocabulary does not have."""


SHARES = {
    Kind.ONCE: 0.84,
    Kind.TWICE: 0.05,
    Kind.AGAIN: 0.03,
    Kind.TWIN: 0.02,
    Kind.CANCELLED: 0.02,
    Kind.DEADLINE: 0.03,
    Kind.REFUSED: 0.01,
}
DEADLINE_SECONDS = 0.2
"""Less than jobs wait while several runs send at the same time, more than they take alone."""


def kind_of(run: int, number: int) -> Kind:
    """How a run's job is sent; one that is sampled is sent once."""
    if is_sampled(number):
        return Kind.ONCE
    choice = random.Random(f"kind {run} {number}")
    return choice.choices(list(SHARES), list(SHARES.values()))[0]


def is_sampled(number: int) -> bool:
    """Whether the result of the job of this number is kept for `verification`."""
    return number % SAMPLE_EVERY == 0


def run_id(run: int) -> str:
    """The id of a run."""
    return f"load-{run}"


def takes_snapshots(run: int) -> bool:
    """Whether the run has its teacher's weights refreshed."""
    return run % len(OUTPUTS) == len(OUTPUTS) - 1


def snapshot_of(run: int, number: int) -> int:
    """Which snapshot of the run's weights the job of this number names; 0 for none."""
    return number // (GROUPS_PER_STEP * SNAPSHOT_STEPS) if takes_snapshots(run) else 0


def snapshot_file(folder: Path, run: int, snapshot: int) -> Path:
    """Where a snapshot of a run's weights lies."""
    return folder / f"{run_id(run)}-{snapshot}" / "model.safetensors"


def snapshot_weights(folder: Path, run: int, snapshot: int) -> Weights | None:
    """What a job names to be scored with a snapshot; None for the teacher's own weights."""
    if snapshot == 0:
        return None
    file = snapshot_file(folder, run, snapshot).resolve()
    return Weights(
        name=run_id(run),
        revision=f"snapshot-{snapshot}",
        uri=file.as_uri(),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )


def make_job(run: int, number: int, fingerprint: str, weights: Weights | None) -> ScoringJob:
    """A run's job.

    Args:
        run: number of the run, from 0.
        number: of the job in the run, from 0.
        fingerprint: of the teacher's tokenizer.
        weights: of the snapshot that the job names.
    """
    kind = kind_of(run, number)
    content = number - 1 if kind is Kind.TWIN else number
    seed = 1_000_000 * run + content
    draw = np.random.default_rng(seed)
    shape = GroupShape(
        group=GROUP,
        wrong=WRONG_HINTS,
        context_tokens=int(draw.integers(*CONTEXT_TOKENS, endpoint=True)),
        response_tokens=int(draw.integers(*RESPONSE_TOKENS, endpoint=True)),
    )
    job = group_job(shape, VOCAB_SIZE, fingerprint, seed)
    outputs = OUTPUTS[run % len(OUTPUTS)]
    responses = job.responses
    if kind is Kind.REFUSED:
        responses = (np.append(responses[0], np.int32(VOCAB_SIZE)), *responses[1:])
    tokens = sum(map(len, responses))
    given = draw.integers(0, VOCAB_SIZE, (tokens, GIVEN_IDS)).astype(np.int32)
    return replace(
        job,
        id=f"{run_id(run)}/{number}",
        run_id=run_id(run),
        responses=responses,
        outputs=outputs,
        token_ids=given if outputs.given else None,
        weights=weights,
    )
