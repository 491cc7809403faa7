"""What the processes of a soak take, read from /proc and from Redis (Linux)."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    seconds: float
    """Since the first sample of the soak."""
    process: str
    """`redis`, `services`, `teacher`, `trainer 0`, …"""
    rss: int
    """Resident memory, in bytes."""
    pss: int
    """The same with shared pages divided among those who share them, in bytes."""
    fds: int
    """Open file descriptors."""
    threads: int


@dataclass(frozen=True, slots=True)
class RedisSample:
    """What Redis says of itself at one moment."""

    seconds: float
    """Since the first sample of the soak."""
    used_memory: int
    """Bytes that its data and buffers take."""
    keys: int


def sample_process(seconds: float, name: str, pid: int) -> Sample | None:
    """What a process takes now; None when it has ended."""
    folder = Path("/proc") / str(pid)
    try:
        resident = int((folder / "statm").read_text().split()[1])
        rollup = (folder / "smaps_rollup").read_text()
        return Sample(
            seconds=seconds,
            process=name,
            rss=resident * PAGE,
            pss=1024 * _number_after("Pss:", rollup),
            fds=len(os.listdir(folder / "fd")),
            threads=_number_after("Threads:", (folder / "status").read_text()),
        )
    except (FileNotFoundError, ProcessLookupError):
        return None


def _number_after(label: str, text: str) -> int:
    return int(text.partition(f"\n{label}")[2].split(maxsplit=1)[0])


def write_samples(file: Path, samples: Sequence[Sample], redis: Sequence[RedisSample]) -> None:
    """Writes a CSV: a row for each process and moment; Redis's own figures in its rows."""
    own = {sample.seconds: sample for sample in redis}
    names = [field.name for field in fields(Sample)]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*names, "used_memory", "keys"])
        for sample in samples:
            row = [getattr(sample, name) for name in names]
            of_redis = own.get(sample.seconds) if sample.process == "redis" else None
            more = ("", "") if of_redis is None else (of_redis.used_memory, of_redis.keys)
            writer.writerow([*row, *more])
