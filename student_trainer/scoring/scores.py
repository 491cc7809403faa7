"""What the teacher says of one rollout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    """`[T, k]`: the tokens on which distributions are compared; 0 where nothing is scored."""
    support: NDArray[np.float32] | None = None
    """`[T, k]`: log probs of the support tokens."""
    wrong_support: NDArray[np.float32] | None = None
    """`[T, k]`: their log probs under the first wrong hint."""
    entropy: NDArray[np.float32] | None = None
    """`[T]`: entropy of the teacher's distribution, in nats."""
