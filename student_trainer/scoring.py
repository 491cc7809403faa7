"""A group's scoring job: its contexts and responses once each, and the pairs of them to score."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from counterhint import Outputs, ScoringJob, ScoringResult, Weights, pairs_array
from counterhint.tensors import TokenIds
from student_trainer.config import Config
from student_trainer.groups import Group
from student_trainer.hints import RolloutHints
from student_trainer.prompts import Prompts


class ScoringConfig(Config):
    """Where and how rollouts are scored."""

    address: str = "127.0.0.1:50050"
    """`host:port` or `unix:///path` of an intake or of a teacher."""
    timeout: float = Field(600.0, gt=0)
    """Seconds that a job may take, tries included."""
    connect_timeout: float = Field(60.0, gt=0)
    """Seconds to wait for a teacher when the run starts."""


@dataclass(frozen=True, slots=True)
class TeacherScores:
    """What the teacher says of one rollout; what the method does not need is None.

    T response tokens, K wrong hints, k support tokens. "The teacher" reads the response after the
    correct hint, or after the problem alone where a method uses no hints.
    """

    scored: NDArray[np.bool_]
    """`[T]`: tokens that numbers exist for; elsewhere they are NaN."""
    sampled: NDArray[np.float32] | None = None
    """`[T]`: log probs of the sampled tokens."""
    wrong: NDArray[np.float32] | None = None
    """`[K, T]`: their log probs under the wrong hints."""
    support_ids: NDArray[np.int32] | None = None
    """`[T, k]`: the tokens on which distributions are compared."""
    support: NDArray[np.float32] | None = None
    """`[T, k]`: log probs of the support tokens."""
    wrong_support: NDArray[np.float32] | None = None
    """`[T, k]`: their log probs under the first wrong hint."""
    entropy: NDArray[np.float32] | None = None
    """`[T]`: entropy of the teacher's distribution, in nats."""


@dataclass(frozen=True, slots=True)
class GroupJob:
    """A scoring job, and which of its pairs belong to which rollout."""

    job: ScoringJob
    """The job."""
    pairs_of: dict[int, tuple[int, ...]]
    """Rollout → indices of its pairs: the correct hint first, then the wrong ones."""

    def read(self, result: ScoringResult) -> dict[int, TeacherScores]:
        """The log probs of each hinted rollout, by its index in the group.

        Raises:
            ValueError: some of the numbers are missing, or of other weights than the job names.
        """
        wanted = self.job.weights
        if wanted is not None and result.weights_revision != wanted.revision:
            raise ValueError(
                f"job {self.job.id} names weights {wanted.revision}, but was scored with "
                f"{result.weights_revision}"
            )
        scores = {}
        for rollout, pairs in self.pairs_of.items():
            rows = [result.pair(pair) for pair in pairs]
            if any(row.valid is not None and not row.valid.all() for row in rows):
                raise ValueError(f"job {self.job.id}: log probs are missing")
            sampled = np.stack([row.sampled for row in rows if row.sampled is not None])
            scores[rollout] = TeacherScores(
                scored=np.ones(sampled.shape[1], dtype=bool), sampled=sampled[0], wrong=sampled[1:]
            )
        return scores


def build_group_job(
    group: Group,
    hints: Sequence[RolloutHints | None],
    prompts: Prompts,
    *,
    run_id: str,
    name: str,
    fingerprint: str,
    weights: Weights | None,
) -> GroupJob | None:
    """The job that scores every hinted rollout of a group; None when no rollout has hints.

    Args:
        group: the group.
        hints: hints of each rollout.
        prompts: makes the contexts.
        run_id: the training run.
        name: which group of the run it is. The job's id ends with a hash of the content, so that a
            resumed run finds the results of an identical group and never collides with another.
        fingerprint: of the tokenizer.
        weights: the teacher weights wanted; None for the server's own.
    """
    contexts: dict[bytes, TokenIds] = {}
    responses: list[TokenIds] = []
    pairs: list[tuple[int, int]] = []
    pairs_of: dict[int, tuple[int, ...]] = {}
    for index, (rollout, chosen) in enumerate(zip(group.rollouts, hints, strict=True)):
        if chosen is None:
            continue
        first = len(pairs)
        for hint in (chosen.correct, *chosen.wrong):
            context = prompts.hinted(group.problem, hint)
            contexts.setdefault(context.tobytes(), context)
            pairs.append((list(contexts).index(context.tobytes()), len(responses)))
        responses.append(rollout.token_ids)
        pairs_of[index] = tuple(range(first, len(pairs)))
    if not pairs:
        return None
    content = hashlib.sha256()
    for sequence in (*contexts.values(), *responses):
        content.update(len(sequence).to_bytes(4, "little"))
        content.update(sequence.tobytes())
    content.update(repr((pairs, weights)).encode())
    job = ScoringJob(
        id=f"{run_id}/{name}/{content.hexdigest()[:12]}",
        run_id=run_id,
        contexts=tuple(contexts.values()),
        responses=tuple(responses),
        pairs=pairs_array(pairs),
        tokenizer_fingerprint=fingerprint,
        outputs=Outputs(sampled=True),
        weights=weights,
    )
    return GroupJob(job, pairs_of)
