"""Sampling ahead: groups of later steps are sampled before this step's scores are waited for.

With a staleness of s, the groups of step t + s are sampled by the weights that step t starts from.
The order is fixed, so a run is the same every time, and with a staleness of 0 it is the synchronous
one. A sampler on hardware of its own goes on in the background until the weights change.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class SamplingAhead(Generic[T]):
    """Samples each step once, in order.

    Args:
        sample: samples the groups of a step.
        staleness: steps that sampling may run ahead.
        in_background: whether to sample in a thread.
    """

    def __init__(self, sample: Callable[[int], T], staleness: int, *, in_background: bool) -> None:
        self._sample = sample
        self._staleness = staleness
        self._thread = ThreadPoolExecutor(1, "sampling") if in_background else None
        self._sampled: dict[int, Future[T]] = {}

    def take(self, step: int, last: int) -> T:
        """What was sampled for a step; begins to sample the steps that may be sampled by now.

        Args:
            step: the step that is to be trained on.
            last: the last step that may be sampled.
        """
        for following in range(step, min(step + self._staleness, last) + 1):
            if following not in self._sampled:
                self._sampled[following] = self._begin(following)
        return self._sampled.pop(step).result()

    def settle(self) -> None:
        """Returns when nothing is being sampled, so that the weights may change."""
        for future in self._sampled.values():
            future.result()

    def close(self) -> None:
        """Ends the thread after what it is at."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int) -> Future[T]:
        if self._thread is not None:
            return self._thread.submit(self._sample, step)
        done: Future[T] = Future()
        done.set_result(self._sample(step))
        return done
