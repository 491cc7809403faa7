"""A campaign: so many inputs by seed and number, to all servers, with figures and findings."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from counterhint.jobs import ScoringJob
from tests.fuzz.grpc_target import Finding
from tests.fuzz.system import Process, System
from tests.teacher_server.jobs import plain_log_probs, random_job, tokens_of_pairs

AT_ONCE = 16
"""Inputs under way."""
LARGE_EVERY = 1_000
"""One input in so many has many megabytes; it is sent alone, as it takes all of a core."""
CANARY_EVERY = 500
"""Inputs between two looks whether everything still works."""
GROWTH_BYTES = 96 << 20
"""How much larger a process may be at the end than after the first quarter."""
SETTLE_SECONDS = 8.0
"""Pause before memory is read: results outlive their jobs for a while."""
MOST_FINDINGS = 20
"""With so many the campaign ends early."""


class Target(Protocol):
    """A server under fuzz."""

    name: str

    def make(self, random: Random, large: bool) -> Any:
        """An input, whose `kind` says how it was made."""

    async def send(self, made: Any, /) -> Sequence[str]:
        """Sends an input; gives its outcome, or that of each job in it, or raises `Finding`."""

    async def check(self, job: ScoringJob, expected: NDArray[np.float32]) -> None:
        """Has a good job scored; raises `Finding` for other numbers than expected."""


@dataclass
class Figures:
    """What a campaign did and found."""

    seed: int
    inputs: dict[str, Counter[str]] = field(default_factory=dict)
    """By target: how many of each kind."""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """By target: how often each."""
    canaries: int = 0
    """Good jobs in between, all scored right unless there is a finding."""
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """By process: bytes after the first quarter (`warm`), at the `end`, and at `most`."""
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    """Of one input."""
    findings: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Inputs of all kinds."""
        return sum(kinds.total() for kinds in self.inputs.values())


class Campaign:
    """Sends inputs to the servers of a system.

    Args:
        system: the running processes.
        targets: open connections to them.
        seed: of every input.
    """

    def __init__(self, system: System, targets: Sequence[Target], seed: int) -> None:
        self._processes = list(system.processes.values())
        self._targets = targets
        self._model = AutoModelForCausalLM.from_pretrained(
            system.folder / "model", dtype=torch.float32
        ).eval()
        self._canary = count()
        self._complained: set[str] = set()
        self.figures = Figures(seed)
        for target in targets:
            self.figures.inputs[target.name] = Counter()
            self.figures.outcomes[target.name] = Counter()

    async def run(
        self, numbers: Sequence[int], progress: Callable[[int], None] = lambda _: None
    ) -> Figures:
        """Sends the inputs of these numbers; tells `progress` how many came to an end."""
        began = time.monotonic()
        quarter = len(numbers) // 4
        await self._send_all(numbers[:quarter], progress)
        warm = await self._memory()
        await self._send_all(numbers[quarter:], progress)
        end = await self._memory()
        for process in self._processes:
            name, most = process.name, process.most_resident
            self.figures.memory[name] = {"warm": warm[name], "end": end[name], "most": most}
            if (growth := end[name] - warm[name]) > GROWTH_BYTES:
                self.figures.findings.append(f"{name} grew by {growth >> 20} MiB")
        self.figures.seconds = time.monotonic() - began
        return self.figures

    async def _send_all(self, numbers: Sequence[int], progress: Callable[[int], None]) -> None:
        for start in range(0, len(numbers), CANARY_EVERY):
            if len(self.figures.findings) >= MOST_FINDINGS:
                return
            batch = numbers[start : start + CANARY_EVERY]
            small = iter([number for number in batch if not _is_large(number)])
            async with asyncio.TaskGroup() as senders:
                for _ in range(AT_ONCE):
                    senders.create_task(self._send_each(small))
            await self._send_each(filter(_is_large, batch))
            await self._check()
            progress(len(batch))

    async def _send_each(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._send(number)

    async def _send(self, number: int) -> None:
        random = Random(f"{self.figures.seed}/{number}")
        target = random.choice(self._targets)
        made = target.make(random, _is_large(number))
        began = time.monotonic()
        try:
            outcomes = await target.send(made)
        except Exception as finding:  # whatever it is, the campaign goes on
            outcomes = ["FINDING"]
            what = str(finding) if isinstance(finding, Finding) else repr(finding)
            self.figures.findings.append(f"{target.name}, input {number} ({made.kind}): {what}")
        took = time.monotonic() - began
        self.figures.slowest_seconds = max(self.figures.slowest_seconds, took)
        self.figures.inputs[target.name][made.kind] += 1
        self.figures.outcomes[target.name].update(outcomes)

    async def _check(self) -> None:
        """Has every target score a job that nobody has seen, and looks at the processes."""
        number = next(self._canary)
        job = random_job((9, 4), (6,), [(0, 0), (1, 0)], id=f"canary-{number}", seed=number)
        expected = plain_log_probs(self._model, job)
        expected = expected[np.arange(len(expected)), tokens_of_pairs(job)]
        for target in self._targets:
            try:
                await target.check(replace(job, id=f"{job.id} of {target.name}"), expected)
            except Finding as finding:
                self.figures.findings.append(f"{target.name}, {job.id}: {finding}")
            self.figures.canaries += 1
        self._look_at(self._processes)

    def _look_at(self, processes: Sequence[Process]) -> None:
        for process in processes:
            for complaint in process.complaints():
                if complaint not in self._complained:
                    self._complained.add(complaint)
                    self.figures.findings.append(complaint)

    async def _memory(self) -> dict[str, int]:
        await asyncio.sleep(SETTLE_SECONDS)
        return {process.name: process.resident for process in self._processes}


def _is_large(number: int) -> bool:
    return number % LARGE_EVERY == LARGE_EVERY // 2
