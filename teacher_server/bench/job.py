"""The job of the benchmarks: a group of rollouts, each under a correct and several wrong hints."""

from dataclasses import dataclass

import numpy as np

from counterhint.errors import InputError
from counterhint.jobs import Outputs, ScoringJob, pairs_array
from counterhint.tensors import TokenIds


@dataclass(frozen=True)
class GroupShape:
    """What the job is made of."""

    group: int = 8
    """Rollouts, and contexts: each context holds the hint of one sibling."""
    wrong: int = 4
    """Wrong hints of a rollout, beside its correct one."""
    context_tokens: int = 600
    """Tokens of each context."""
    response_tokens: int = 200
    """Tokens of each response."""
    top_k: int = 0
    """Entries of the top k at each position; 0 for the response's own tokens only."""


def group_job(
    shape: GroupShape, vocab_size: int, tokenizer_fingerprint: str = "", seed: int = 0
) -> ScoringJob:
    """A group's job of random tokens; a rollout is never its own hint.

    Args:
        shape: what it is made of.
        vocab_size: token ids are below it.
        tokenizer_fingerprint: of the teacher that will score it.
        seed: of the tokens; jobs of two seeds share no prefix, and each has an id of its own.

    Raises:
        InputError: the group is too small for so many wrong hints.
    """
    group, wrong = shape.group, shape.wrong
    if wrong + 2 > group:
        raise InputError(
            f"--wrong {wrong} with --group {group}: a rollout has one correct and {wrong} wrong "
            f"siblings, so the group must be at least {wrong + 2}"
        )
    random = np.random.default_rng(seed)

    def sequences(length: int) -> tuple[TokenIds, ...]:
        return tuple(random.integers(0, vocab_size, length).astype(np.int32) for _ in range(group))

    pairs = [
        ((response + step) % group, response)
        for response in range(group)
        for step in range(1, wrong + 2)
    ]
    return ScoringJob(
        id=f"bench-{seed}",
        run_id="bench",
        contexts=sequences(shape.context_tokens),
        responses=sequences(shape.response_tokens),
        pairs=pairs_array(pairs),
        tokenizer_fingerprint=tokenizer_fingerprint,
        outputs=Outputs(top_k=shape.top_k),
    )
