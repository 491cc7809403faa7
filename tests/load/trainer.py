"""One run of the soak as a process: `python -m tests.load.trainer '{"run": 0, …}'`.

It sends the jobs of a step, waits for all of them, checks what came and begins the next step. Each
line that it prints is a JSON object: `connected`, after which it waits for a line; `cancel` with a
job's id; `step` with the number of jobs that have ended; `sent`, the last one, after which it stays
as it is until its standard input is closed.
"""

import json
import sys
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from counterhint.client import AsyncScoringClient, ScoringClient
from counterhint.errors import CounterhintError, DeadlinePassed, InvalidJob, JobCancelled
from counterhint.jobs import SCORE_ARRAYS, ScoringJob, ScoringResult
from tests.load.traffic import (
    DEADLINE_SECONDS,
    GROUPS_PER_STEP,
    Kind,
    is_sampled,
    kind_of,
    make_job,
    snapshot_of,
    snapshot_weights,
)

PATIENCE = 240.0
"""Seconds after which a job without an outcome counts as lost."""

Outcome = ScoringResult | CounterhintError


@dataclass(frozen=True)
class Orders:
    """What the process is to do."""

    run: int
    """Number of the run, from 0."""
    address: str
    """The intake's."""
    jobs: int
    """How many to send."""
    step_seconds: float
    """The least between the beginnings of two steps."""
    weights: str
    """Folder of the snapshots."""
    samples: str
    """Folder for the scores that will be verified."""


@dataclass
class Sent:
    """What a run sent and got."""

    jobs: int = 0
    """Jobs, each counted once."""
    calls: int = 0
    """Calls, those of duplicates among them."""
    tokens: int = 0
    """`tokens_computed` of the jobs with a result."""
    ends: Counter[str] = field(default_factory=Counter)
    """Jobs by how they ended: `result`, `cancelled`, `deadline`, `refused`, `lost`."""
    wrong: list[str] = field(default_factory=list)
    """What should not have come: an error without a cause, numbers that cannot be."""
    p50_seconds: float = 0.0
    """Median time between sending a job and its result."""
    p95_seconds: float = 0.0
    """95th percentile of it."""


class Trainer:
    """Sends a run's jobs through its clients.

    Args:
        orders: what to do.
        client: for calls without a deadline of their own.
        hasty: whose calls have `DEADLINE_SECONDS`.
    """

    def __init__(self, orders: Orders, client: ScoringClient, hasty: ScoringClient) -> None:
        self._orders = orders
        self._client = client
        self._hasty = hasty
        self._teacher = client.get_teacher(timeout=PATIENCE)
        hasty.get_teacher(timeout=PATIENCE)  # connects now, not with the first job
        self._weights = snapshot_weights(Path(orders.weights), orders.run, 0)
        self._snapshot = 0
        self._seconds = np.zeros(orders.jobs)
        """By result; one array, so that what it measures does not grow."""
        self._ended: dict[int, float] = {}
        """When the first calls of this step's jobs had an answer, by number."""
        self.sent = Sent()

    def work(self) -> None:
        """Sends all steps, one after another."""
        for first in range(0, self._orders.jobs, GROUPS_PER_STEP):
            begun = time.monotonic()
            self._step(range(first, min(first + GROUPS_PER_STEP, self._orders.jobs)))
            tell(step=self.sent.jobs)
            time.sleep(max(0.0, begun + self._orders.step_seconds - time.monotonic()))
        results = self._seconds[: self.sent.ends["result"]]
        if len(results):
            self.sent.p50_seconds, self.sent.p95_seconds = np.quantile(
                results, (0.5, 0.95)
            ).tolist()

    def _step(self, numbers: range) -> None:
        self._refresh(snapshot_of(self._orders.run, numbers[0]))
        begun = time.monotonic()
        self._ended.clear()
        under_way = [(number, *self._send(number)) for number in numbers]
        for number, job, calls in under_way:
            outcomes = [self._outcome(call) for call in calls]
            self._take(number, job, outcomes, self._ended.get(number, time.monotonic()) - begun)

    def _refresh(self, snapshot: int) -> None:
        """Names the new weights when they are due."""
        if snapshot != self._snapshot:
            folder = Path(self._orders.weights)
            self._weights = snapshot_weights(folder, self._orders.run, snapshot)
            self._snapshot = snapshot

    def _send(self, number: int) -> tuple[ScoringJob, list[Future[Any]]]:
        run = self._orders.run
        job = make_job(run, number, self._teacher.tokenizer_fingerprint, self._weights)
        kind = kind_of(run, number)
        if kind is Kind.DEADLINE:
            calls: list[Future[Any]] = [self._hasty.start(lambda client: by_stream(client, job))]
        elif kind is Kind.AGAIN:
            first: Future[Any] = Future()
            calls = [first, self._client.start(lambda client: again(client, job, first))]
        else:
            calls = [self._client.submit(job) for _ in range(2 if kind is Kind.TWICE else 1)]
        calls[0].add_done_callback(lambda _: self._ended.update({number: time.monotonic()}))
        if kind is Kind.CANCELLED:
            tell(cancel=job.id)
        self.sent.jobs += 1
        self.sent.calls += len(calls)
        return job, calls

    def _outcome(self, call: Future[Any]) -> Outcome | None:
        """How a call ended; None when it is lost."""
        try:
            outcome: Outcome = call.result(PATIENCE)
        except CounterhintError as error:
            return error
        except TimeoutError:
            return None
        return outcome

    def _take(
        self, number: int, job: ScoringJob, outcomes: list[Outcome | None], seconds: float
    ) -> None:
        """Counts how a job ended, and keeps what is not as it should be."""
        kind = kind_of(self._orders.run, number)
        first = outcomes[0]
        ends = self.sent.ends
        match first:
            case None:
                ends["lost"] += 1
            case ScoringResult() if kind is not Kind.REFUSED:
                self._seconds[ends["result"]] = seconds
                ends["result"] += 1
                self.sent.tokens += job.tokens_computed
                self._check(job, [one for one in outcomes if isinstance(one, ScoringResult)])
                if is_sampled(number):
                    self._keep(number, first)
            case JobCancelled() if kind is Kind.CANCELLED:
                ends["cancelled"] += 1
            case DeadlinePassed() if kind is Kind.DEADLINE:
                ends["deadline"] += 1
            case InvalidJob() if kind is Kind.REFUSED:
                ends["refused"] += 1
            case _:
                ends["wrong"] += 1
                self.sent.wrong.append(f"{job.id} ({kind}): {first!r}")
        if any(type(other) is not type(first) for other in outcomes):
            self.sent.wrong.append(f"{job.id} ({kind}): several outcomes, {outcomes!r}")

    def _check(self, job: ScoringJob, results: list[ScoringResult]) -> None:
        """Whether results can be those of the job, and are the same for the same id."""
        wanted = self._teacher.weights_revision if job.weights is None else job.weights.revision
        for result in results:
            scores = result.scores
            # Rounding may put the log prob of a sure token just above 0.
            highest = max(
                float(array.max())
                for array in (scores.sampled, scores.top_k_log_probs, scores.given)
                if array is not None
            )
            possible = (
                scores.valid is None
                and scores.sampled is not None
                and all(np.isfinite(array).all() for array in arrays_of(result).values())
                and highest < 1e-5
                and result.job_id == job.id
                and result.weights_revision == wanted
                and len(scores.sampled) == job.pair_lengths.sum()
            )
            if not possible:
                self.sent.wrong.append(f"{job.id}: {result!r}")
            if not same_scores(result, results[0]):
                self.sent.wrong.append(f"{job.id}: two results")

    def _keep(self, number: int, result: ScoringResult) -> None:
        file = Path(self._orders.samples) / f"{self._orders.run}-{number}.npz"
        np.savez(file, **arrays_of(result))


async def by_stream(client: AsyncScoringClient, job: ScoringJob) -> Outcome:
    """The outcome of one job on a stream of its own."""

    async def jobs() -> Any:
        yield job

    outcomes = [outcome async for _, outcome in client.score_stream(jobs())]
    return outcomes[0]


async def again(
    client: AsyncScoringClient, job: ScoringJob, first: Future[Outcome]
) -> ScoringResult:
    """The outcome of a job that is sent again at once when it has ended as `first` tells."""
    try:
        first.set_result(await client.score(job))
    except CounterhintError as error:
        first.set_result(error)
    return await client.score(job)


def arrays_of(result: ScoringResult) -> dict[str, Any]:
    """The arrays of numbers that a result holds, by name."""
    arrays = {name: getattr(result.scores, name) for name in SCORE_ARRAYS}
    return {name: array for name, array in arrays.items() if array is not None}


def same_scores(one: ScoringResult, other: ScoringResult) -> bool:
    """Whether two results hold exactly the same numbers."""
    others = arrays_of(other)
    return all(np.array_equal(array, others[name]) for name, array in arrays_of(one).items())


def tell(**facts: Any) -> None:
    """Prints a line for the soak."""
    print(json.dumps(facts), flush=True)


def main() -> None:
    """Works by the orders on the command line."""
    orders = Orders(**json.loads(sys.argv[1]))
    with (
        ScoringClient(orders.address, timeout=PATIENCE) as client,
        ScoringClient(orders.address, timeout=DEADLINE_SECONDS) as hasty,
    ):
        trainer = Trainer(orders, client, hasty)
        tell(connected=True)
        sys.stdin.readline()
        trainer.work()
        tell(sent=vars(trainer.sent))
        sys.stdin.read()


if __name__ == "__main__":
    main()
