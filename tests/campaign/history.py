"""What happened in a campaign run, as those who took part were told it.

All times are seconds since its beginning.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from services.queue.records import JobState, RunStats


class Told(StrEnum):
    """How a call ended."""

    RESULT = "result"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    CONFLICT = "conflict"
    INVALID = "invalid"
    OTHER = "other"
    """An error that no job of a campaign should end with."""


@dataclass
class Call:
    """A trainer sent a job."""

    name: str
    job: str
    content: int
    sent: float
    timeout: float
    resent: list[float] = field(default_factory=list)
    """When the client saw that a try had failed, before it sent the job again."""
    told_at: float | None = None
    """None: never."""
    told: Told | None = None
    reason: str = ""
    scores: list[float] = field(default_factory=list)
    killed: bool = False
    """The trainer was killed before it was told anything."""


@dataclass(frozen=True)
class Sighting:
    """A look into the queue saw a job in a state; None for no such job."""

    at: float
    job: str
    state: JobState | None


@dataclass(frozen=True)
class Cancel:
    """Somebody cancelled a job, or all of a run's."""

    asked: float
    told: float
    job: str | None
    """None for a whole run."""
    run: str | None
    state: JobState | None
    """What the queue answered: the job's state, None for no such job."""


@dataclass(frozen=True)
class Blow:
    """A fault that struck a process, from its beginning to when the process was back.

    `stall` of `machine`: nobody's doing, everything was slow.
    """

    kind: str
    target: str
    begun: float
    ended: float
    lost_from: float | None = None
    """Redis may have forgotten what it acknowledged since then, until `ended`; None: nothing."""


@dataclass(frozen=True)
class Final:
    """A job's record in the queue after the run."""

    job: str
    state: JobState
    cost: int
    reason: str = ""
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Reference:
    """What is right for a content of a job."""

    run: str
    scores: tuple[float, ...]
    tokens_computed: int
    tokens_naive: int


@dataclass
class History:
    """One campaign run, complete."""

    references: dict[tuple[str, int], Reference]
    """By job and content: all that were to be sent."""
    calls: list[Call] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    finals: dict[str, Final] = field(default_factory=dict)
    accounts: dict[str, RunStats] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    """What the queue holds after the run and should not, in words."""
    broken: list[str] = field(default_factory=list)
    """Processes that ended by themselves and should not have, in words."""


def read_calls(lines: Iterable[str], killed: Iterable[str]) -> list[Call]:
    """Calls from the log of a trainer.

    Args:
        lines: the log's.
        killed: names of the trainer's lives that were ended by a kill.
    """
    killed, calls = set(killed), dict[str, Call]()
    for line in lines:
        facts = json.loads(line)
        at, kind, name = facts["at"], facts["kind"], facts["call"]
        match kind:
            case "sent":
                calls[name] = Call(name, facts["job"], facts["content"], at, facts["timeout"])
            case "resent":
                calls[name].resent.append(at)
            case "told":
                call = calls[name]
                call.told_at, call.told = at, Told(facts["outcome"])
                call.reason, call.scores = facts["reason"], facts.get("scores", [])
    for call in calls.values():
        call.killed = call.told is None and call.name.rpartition("/")[0] in killed
    return list(calls.values())
