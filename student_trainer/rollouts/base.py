"""What a sampler is: a source of responses that draws from known weights of the student.

To add one, write a file beside this one with a `Sampler` and its `Config` subclass (its `kind` is
the name used in recipes), and list the config in `student_trainer/rollouts/config.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from counterhint.tensors import TokenIds


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled response."""

    token_ids: TokenIds
    """int32 `[T]`, with the end-of-sequence token if there is one."""
    log_probs: NDArray[np.float32]
    """`[T]`: log probs of these tokens in the distribution that they were drawn from, which is
    the one at the sampling temperature; at temperature 0, the one at temperature 1."""
    entropies: NDArray[np.float32] | None
    """`[T]`: entropies of the same distributions, in nats; None where the sampler has none."""
    finished: bool
    """Whether it ended by itself."""
    top_k_ids: NDArray[np.int32] | None
    """`[T, k]`: the student's k most probable ids at each position, best first; None where none
    were asked for."""
    revision: int
    """Number of the weights that drew it, as given to `Sampler.load_weights`."""


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """How responses are to be drawn."""

    group_size: int
    """Responses a prompt."""
    max_new_tokens: int
    """Longest response."""
    temperature: float
    """By which logits are divided; 0 takes the most probable token."""
    seed: int
    """Decides every draw, together with prompts and weights."""
    max_rows: int = 256
    """Most responses that are drawn at the same time; at least one group."""
    top_k: int = 0
    """k of `Sample.top_k_ids`; 0 for none. It changes nothing about what is drawn."""
    draw_top_k: int = 0
    """Draws among this many most probable tokens only; 0 draws among all."""
    draw_top_p: float = 1.0
    """Then draws among the fewest most probable tokens that together reach this probability only
    (nucleus sampling, Holtzman et al., arXiv 1904.09751); 1 draws among all."""


class Sampler(ABC):
    """Draws groups of responses. Use it as a context manager: it may hold memory or connections."""

    reads_student: ClassVar[bool] = False
    """Whether it draws with the student's own module, which must be whole for it."""
    overlaps: ClassVar[bool]
    """Whether it has hardware of its own, so that a thread may go on sampling while the trainer
    updates the student, and call `load_weights` from another thread."""

    @abstractmethod
    def sample_groups(
        self, prompts: Sequence[TokenIds], request: SamplingRequest
    ) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """Draws `request.group_size` responses to each prompt.

        All samples of a group are of one revision.

        Args:
            prompts: int32 `[T]` each.
            request: how to draw.

        Yields:
            The index of a prompt and its samples, as each group is complete.

        Raises:
            CounterhintError: the sampler failed, in a way that trying again did not mend.
        """

    @abstractmethod
    def load_weights(self, weights: Iterable[tuple[str, Tensor]], revision: int) -> None:
        """Makes the student's weights those that later samples are drawn from.

        To be called before the first sampling and after every update. It returns when the weights
        are in place everywhere: groups under way end under the old ones, later ones begin under
        these.

        Args:
            weights: full tensors by their names in the student's model; tied ones once.
            revision: the number of updates that led to them.

        Raises:
            CounterhintError: they could not be loaded. Nothing can be sampled before a later call
                succeeds.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds; it cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
