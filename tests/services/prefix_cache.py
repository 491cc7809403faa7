"""A model of an engine's prefix cache, and jobs as several runs would send them."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np

from counterhint.jobs import ScoringJob, pairs_array
from counterhint.tensors import TokenIds
from tests.services.scripted_teacher import make_job

BLOCK = 16


class PrefixCache:
    """Least recently used blocks of contexts, each known by all that comes before it too."""

    def __init__(self, tokens: int) -> None:
        self._capacity = tokens // BLOCK
        self._blocks: OrderedDict[bytes, None] = OrderedDict()
        self.read_tokens = 0
        self.cached_tokens = 0

    def read(self, context: TokenIds) -> int:
        """Reads a context; returns how many of its tokens were there."""
        prefixes = [context[:stop].tobytes() for stop in range(BLOCK, len(context) + 1, BLOCK)]
        found = 0
        while found < len(prefixes) and prefixes[found] in self._blocks:
            found += 1
        for prefix in reversed(prefixes):  # a context's end is forgotten before its beginning
            self._blocks[prefix] = None
            self._blocks.move_to_end(prefix)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        self.read_tokens += len(context)
        self.cached_tokens += found * BLOCK
        return found * BLOCK


def run_jobs(run: str, seed: int, steps: int, groups: int = 4) -> list[list[ScoringJob]]:
    """The jobs of a run, in rounds that are sent together: two for each step.

    A group's contexts begin with the run's system message and the problem; the hints begin alike.
    The first phase reads some of the hints, the second most of these again and others.
    """
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> TokenIds:
        return rng.integers(3, 64, rng.integers(low, high)).astype(np.int32)

    system, template = tokens(48, 49), tokens(18, 19)
    rounds: list[list[ScoringJob]] = []
    for step in range(steps):
        phases: list[list[ScoringJob]] = [[], []]
        for group in range(groups):
            problem, beginning = tokens(60, 160), tokens(3, 6)
            contexts = [
                np.concatenate([system, problem, template, beginning, tokens(80, 250)])
                for _ in range(8)
            ]
            first = contexts[: rng.integers(1, 6)]
            second = [*first[1:], *contexts[len(first) :][: rng.integers(1, 4)]]
            for phase, used in enumerate((first, second)):
                job = make_job(f"{run}/step-{step}/group-{group}/phase-{phase}", 20, run)
                pairs = pairs_array([(context, 0) for context in range(len(used))])
                phases[phase].append(replace(job, contexts=tuple(used), pairs=pairs))
        rounds += phases
    return rounds
