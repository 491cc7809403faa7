"""What the server asks of an engine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from counterhint.jobs import Scores, ScoringJob, TeacherInfo, pairs_array


@dataclass(frozen=True, slots=True)
class Scored:
    """What an engine gives for one job."""

    scores: Scores
    """Scores of all pairs, one after another in the order of `ScoringJob.pairs`."""
    weights_revision: str
    """The weights that computed every one of them."""
    tokens_computed: int
    """Tokens that went through the model; fewer than the job's own figure when contexts of earlier
    jobs were still cached."""
    seconds: float
    """Time spent computing, without waiting."""


class Engine(ABC):
    """Computes log probs of responses under contexts; lives on the server's event loop.

    A new engine overrides:

    - `start`: when something must be awaited before the first job.
    - `score`: the work itself. It must give the same numbers as one plain full forward pass a pair
      (float32: to 1e-4), honour `job.outputs`, and use one revision of the weights for a whole job.
      The server has validated the job against `info` and checks afterwards that every number is
      finite.
    - `progress`: a number that grows while it works, so that a hanging engine can be told from a
      busy one.
    - `check` and `dead`: when it knows a cheaper way to tell whether it still works.
    - `close`: when it holds threads, processes or device memory.

    and sets `info`, and `concurrent_jobs` or `concurrent_tokens` when it gains from several jobs at
    once.
    """

    info: TeacherInfo
    """What this engine serves, and the limits that jobs must keep."""
    concurrent_jobs: int = 1
    """Jobs that it takes at once; the others wait in front of it."""
    concurrent_tokens: int | None = None
    """Tokens (`ScoringJob.tokens_computed`) that it takes at once, however many jobs they are; when
    set, it takes the place of `concurrent_jobs`. A larger job runs alone."""

    async def start(self) -> None:
        """Whatever has to be done on the event loop before the first job.

        Raises:
            InputError: the engine cannot serve as asked.
        """
        return

    @abstractmethod
    async def score(self, job: ScoringJob) -> Scored:
        """Scores one job. When the awaiting task is cancelled, the computation must end soon.

        Raises:
            WeightsUnavailable: the weights that the job names cannot be used.
            EngineFailure: the engine gave no usable numbers.
            Unavailable: the engine as a whole cannot score any more.
        """

    @abstractmethod
    def progress(self) -> int:
        """Batches, steps or requests that were finished since the engine began."""

    async def check(self) -> Scored:
        """Scores one token, by whichever weights are at hand.

        Raises:
            Exception: as `score`.
        """
        return await self.score(one_token_job(self.info))

    def dead(self) -> bool:
        """Whether it is known to be dead although nothing was asked of it; must take no time."""
        return False

    async def close(self) -> None:
        """Releases what the engine holds; no job is under way any more."""
        return


def one_token_job(teacher: TeacherInfo) -> ScoringJob:
    """The smallest job there is."""
    ids = np.zeros(1, dtype=np.int32)
    pair = pairs_array([(0, 0)])
    return ScoringJob("ready", "", (ids,), (ids,), pair, teacher.tokenizer_fingerprint)
