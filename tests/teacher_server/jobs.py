"""Jobs of random tokens, and what one plain full forward pass a pair says about them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from counterhint import Outputs, ScoringJob, pairs_array


def random_job(
    contexts: Sequence[int],
    responses: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    *,
    id: str = "job",
    seed: int = 0,
    vocab_size: int = 64,
    given: int = 0,
    **fields: Any,
) -> ScoringJob:
    """A job of contexts and responses of these lengths; `given` ids a response token."""
    random = np.random.default_rng(seed)

    def ids(*shape: int) -> NDArray[np.int32]:
        return random.integers(0, vocab_size, shape).astype(np.int32)

    return ScoringJob(
        id=id,
        run_id="run",
        contexts=tuple(ids(length) for length in contexts),
        responses=tuple(ids(length) for length in responses),
        pairs=pairs_array(pairs),
        token_ids=ids(sum(responses), given) if given else None,
        **({"tokenizer_fingerprint": ""} | fields),
    )


SMALL = {"contexts": (7, 4), "responses": (5, 1), "pairs": [(0, 0), (1, 0), (1, 1)]}
"""Arguments of a job that takes next to no time."""

ALL = Outputs(sampled=True, top_k=4, given=True, entropy=True)


@torch.inference_mode()
def plain_log_probs(model: Any, job: ScoringJob) -> NDArray[np.float32]:
    """Log probs `[N, V]` at every pair's response positions, a forward pass a pair."""
    rows = []
    for context, response in job.pairs:
        prompt, answer = job.contexts[context], job.responses[response]
        ids = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))
        logits = model(ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        rows.append(logits.float().log_softmax(-1).numpy())
    return np.concatenate(rows)


def tokens_of_pairs(job: ScoringJob) -> NDArray[np.int32]:
    """The response tokens `[N]` of all pairs."""
    return np.concatenate([job.responses[response] for _, response in job.pairs])


def given_of_pairs(job: ScoringJob) -> NDArray[np.int32]:
    """The given ids `[N, n]` of all pairs."""
    assert job.token_ids is not None
    starts = np.cumsum(job.response_lengths) - job.response_lengths
    return np.concatenate(
        [
            job.token_ids[starts[response] : starts[response] + job.response_lengths[response]]
            for _, response in job.pairs
        ]
    )
