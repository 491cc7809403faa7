"""What a soak found, which bounds that breaks, and how it is printed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from services.queue.records import RunStats
from tests.load.samples import MIB, RedisSample, Sample
from tests.load.trainer import Sent
from tests.load.verdict import Trend, fit_trend, sparkline

MAX_GROWTH = 0.05
"""Of memory between the end of the warm-up and the end."""
MAX_DRIFT = 3.0
"""File descriptors, and threads, by which the end may differ from the end of the warm-up."""
MAX_DIFFERENCE = 1e-4
"""Nats between a score and that of a plain forward pass, float32 both."""


@dataclass(frozen=True, slots=True)
class Flatness:
    """What a process took over time."""

    name: str
    rss: Trend
    """Resident bytes."""
    pss: Trend
    """The same with shared pages divided among those who share them."""
    fds: Trend
    """Open file descriptors."""
    threads: Trend
    rss_line: str
    """Resident memory over the whole time, as a sparkline."""

    def broken(self) -> list[str]:
        """Which bounds do not hold."""
        found = []
        if self.rss.growth > MAX_GROWTH:
            found.append(f"{self.name}: memory grew by {self.rss.growth:.1%}, {_mib(self.rss)}")
        for what, trend in (("file descriptors", self.fds), ("threads", self.threads)):
            if trend.drift > MAX_DRIFT:
                found.append(f"{self.name}: {what} went from {trend.start:.1f} to {trend.end:.1f}")
        return found


@dataclass(frozen=True, slots=True)
class Verified:
    """Results that were computed again, by plain forward passes."""

    jobs: int
    numbers: int
    """Log probs and entropies that were compared."""
    largest_difference: float
    """Nats."""


@dataclass(frozen=True)
class Report:
    """What a soak found."""

    hours: float
    """Of traffic, for each run."""
    seconds: float
    """That it took."""
    sent: Sequence[Sent]
    """What each trainer sent and got."""
    accounts: Sequence[RunStats]
    """What the queue says of each run."""
    verified: Verified
    samples: Sequence[Sample]
    redis: Sequence[RedisSample]
    left_over: Sequence[str]
    """Keys in Redis that should have gone with the last results."""
    exit_codes: Mapping[str, int]
    """Of the processes that were told to end (SIGTERM), by name."""

    @property
    def ends(self) -> dict[str, int]:
        """Jobs of all runs by how they ended."""
        names = sorted({name for run in self.sent for name in run.ends})
        return {name: sum(run.ends[name] for run in self.sent) for name in names}

    @property
    def jobs(self) -> int:
        """All jobs that were sent, each counted once."""
        return sum(run.jobs for run in self.sent)

    def total(self, account: str) -> float:
        """One of the queue's accounts, of all runs."""
        return float(sum(getattr(run, account) for run in self.accounts))

    def flatness(self) -> list[Flatness]:
        """Each process over time."""
        found = []
        for name in dict.fromkeys(sample.process for sample in self.samples):
            rows = [sample for sample in self.samples if sample.process == name]
            seconds = [row.seconds for row in rows]
            trends = {
                field: fit_trend(seconds, [getattr(row, field) for row in rows])
                for field in ("rss", "pss", "fds", "threads")
            }
            found.append(Flatness(name, **trends, rss_line=sparkline([row.rss for row in rows])))
        return found

    def redis_memory(self) -> Trend:
        """Bytes that Redis's data and buffers take: results of some seconds, so it follows the pace
        of the jobs and has no bound."""
        seconds = [sample.seconds for sample in self.redis]
        return fit_trend(seconds, [sample.used_memory for sample in self.redis])

    def lost_or_wrong(self) -> list[str]:
        """Jobs without an outcome or with a wrong one, and accounts that do not add up."""
        found = [wrong for run in self.sent for wrong in run.wrong]
        for run, account in zip(self.sent, self.accounts, strict=True):
            name = account.run_id
            if run.ends["lost"]:
                found.append(f"{name}: {run.ends['lost']} jobs without an outcome")
            if run.ends.total() != run.jobs:
                found.append(f"{name}: {run.jobs} jobs sent, {run.ends.total()} outcomes")
            accepted = run.jobs - run.ends["refused"]
            ended = account.done + account.failed + account.cancelled + account.expired
            if ended != accepted:
                found.append(f"{name}: {accepted} jobs accepted, the queue ended {ended}")
            if account.cancelled != run.ends["cancelled"]:
                found.append(
                    f"{name}: {account.cancelled} jobs cancelled in the queue, "
                    f"{run.ends['cancelled']} trainer's calls ended so"
                )
            if unfinished := account.queued + account.claimed + account.dead:
                found.append(f"{name}: {unfinished} jobs are unfinished or dead")
        if not self.verified.largest_difference <= MAX_DIFFERENCE:
            found.append(
                f"a score differs by {self.verified.largest_difference:.1e} from a forward pass"
            )
        if self.left_over:
            found.append(f"{len(self.left_over)} keys are left in Redis: {self.left_over[:5]}")
        ends = [f"{name} ended with {code}" for name, code in self.exit_codes.items() if code]
        return found + ends

    def broken(self) -> list[str]:
        """Everything that is not as it must be; empty when the soak passed."""
        found = self.lost_or_wrong()
        for process in self.flatness():
            found += process.broken()
        return found

    def as_json(self) -> dict[str, Any]:
        """The report without its samples."""
        return {
            "hours": self.hours,
            "runs": len(self.sent),
            "seconds": round(self.seconds, 1),
            "jobs": self.jobs,
            "calls": sum(run.calls for run in self.sent),
            "ends": self.ends,
            "jobs_per_second": round(self.jobs / self.seconds, 1),
            "p50_seconds": round(max(run.p50_seconds for run in self.sent), 3),
            "p95_seconds": round(max(run.p95_seconds for run in self.sent), 3),
            "accounts": {
                name: self.total(name)
                for name in asdict(self.accounts[0])
                if name not in ("run_id", "paused")
            },
            "verified": asdict(self.verified),
            "redis_used_memory": _described(self.redis_memory()),
            "redis_keys_left_over": len(self.left_over),
            "processes": [
                {
                    "name": one.name,
                    **{
                        field: _described(getattr(one, field))
                        for field in ("rss", "pss", "fds", "threads")
                    },
                }
                for one in self.flatness()
            ],
            "broken": self.broken(),
        }

    def show(self, console: Console) -> None:
        """Prints the report for a person."""
        facts = self.as_json()
        verified = self.verified
        console.print(
            f"{len(self.sent)} runs, {self.hours:g} h each in {self.seconds / 60:.1f} min: "
            f"{self.jobs} jobs ({facts['jobs_per_second']}/s), {facts['calls']} calls, "
            f"{self.total('tokens_naive'):,.0f} tokens naive, "
            f"{self.total('tokens_computed'):,.0f} computed, "
            f"{self.total('tokens_cached'):,.0f} from caches"
        )
        console.print("ends: " + ", ".join(f"{n} {name}" for name, n in self.ends.items()))
        console.print(
            f"verified: {verified.jobs} jobs, {verified.numbers:,} numbers, largest difference "
            f"{verified.largest_difference:.1e} nats"
        )
        table = Table(
            *("process", "RSS MiB", "end", "growth", "PSS MiB", "end", "fds", "end"),
            *("threads", "end", "RSS over time"),
            box=SIMPLE_HEAD,
            padding=(0, 1),
        )
        for one in self.flatness():
            table.add_row(
                one.name,
                *(f"{one.rss.start / MIB:.1f}", f"{one.rss.end / MIB:.1f}"),
                f"{one.rss.growth:+.1%}",
                *(f"{one.pss.start / MIB:.1f}", f"{one.pss.end / MIB:.1f}"),
                *(f"{one.fds.start:.1f}", f"{one.fds.end:.1f}"),
                *(f"{one.threads.start:.1f}", f"{one.threads.end:.1f}"),
                one.rss_line,
            )
        console.print(table)
        memory = self.redis_memory()
        line = sparkline([sample.used_memory for sample in self.redis])
        console.print(
            f"Redis's data: {_mib(memory)}, {self.redis[-1].keys} keys  {line}  afterwards "
            f"{len(self.left_over)} keys left over"
        )
        for wrong in self.broken():
            console.print(f"BROKEN: {wrong}", style="red", markup=False, highlight=False)


def _described(trend: Trend) -> dict[str, float]:
    return {
        "start": round(trend.start, 2),
        "end": round(trend.end, 2),
        "growth": round(trend.growth, 4),
    }


def _mib(trend: Trend) -> str:
    return f"{trend.start / MIB:.1f} to {trend.end / MIB:.1f} MiB"
