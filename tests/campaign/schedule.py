"""What happens in one campaign run: made up front from the seed alone, and printable."""

import random
from dataclasses import dataclass
from enum import StrEnum

LONG = 60.0
"""Seconds that a job has which is not meant to expire."""
SUBMIT_SECONDS = 2.0
"""All first submissions lie in so many seconds; faults go on a little longer."""
FAULT_SECONDS = 3.0
PAUSE_SECONDS = (1.8, 2.4)
"""Pauses are longer than the lease (`system.LEASE_SECONDS`)."""


class FaultKind(StrEnum):
    """What is done to a process, or to jobs."""

    KILL = "kill"
    """SIGKILL; the process is started again after `seconds`."""
    STOP = "stop"
    """SIGTERM; the same."""
    PAUSE = "pause"
    """SIGSTOP, and SIGCONT after `seconds`."""
    POWER_CUT = "power cut"
    """Redis is killed, and what it wrote in the last `seconds` is cut off its file at some byte."""
    CANCEL_JOB = "cancel job"
    CANCEL_RUN = "cancel run"
    """What `counterhint runs cancel` does."""


@dataclass(frozen=True)
class Submission:
    """A trainer sends a job. The first word of the id says how the teacher behaves."""

    at: float
    trainer: str
    job: str
    run: str
    content: int
    """Seed of contexts, responses and pairs."""
    timeout: float


@dataclass(frozen=True)
class Fault:
    """Something is done at a time; `target` is a process, a job or a run."""

    at: float
    kind: FaultKind
    target: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """One campaign run."""

    seed: int
    real_teacher: bool
    """The transformers engine on a tiny model, in place of teachers that follow a script."""
    fsync: str
    """Redis's `appendfsync`: `always` or `everysec`."""
    dispatchers: int
    teachers: int
    trainers: int
    submissions: tuple[Submission, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        teacher = "tiny transformers model" if self.real_teacher else "scripted"
        lines = [
            f"seed {self.seed}: {self.dispatchers} dispatchers, {self.teachers} teachers "
            f"({teacher}), {self.trainers} trainers, appendfsync {self.fsync}"
        ]
        timed: list[Submission | Fault] = [*self.submissions, *self.faults]
        for event in sorted(timed, key=lambda event: event.at):
            match event:
                case Submission(at, trainer, job, _, content, timeout):
                    what = f"{trainer} sends {job!r}, content {content}, {timeout:g} s"
                case Fault(at, kind, target, seconds):
                    what = f"{kind} {target}" + (f" ({seconds:.2f} s)" if seconds else "")
            lines.append(f"  {at:5.2f} s  {what}")
        return "\n".join(lines)


def make_schedule(seed: int, *, real_teacher: bool = False) -> Schedule:
    """The run that a seed stands for; the same for ever."""
    rng = random.Random(seed)
    dispatchers, teachers = rng.choice((1, 2)), 1 if real_teacher else rng.choice((1, 2))
    trainers, fsync = rng.choice((2, 3)), rng.choice(("always", "everysec", "everysec"))
    submissions = _submissions(rng, trainers, scripted=not real_teacher)
    faults = [
        *_faults(rng, dispatchers, teachers, trainers, real_teacher),
        *_cancels(rng, submissions),
    ]
    return Schedule(
        seed=seed,
        real_teacher=real_teacher,
        fsync=fsync,
        dispatchers=dispatchers,
        teachers=teachers,
        trainers=trainers,
        submissions=tuple(sorted(submissions, key=lambda one: one.at)),
        faults=tuple(sorted(faults, key=lambda one: one.at)),
    )


def _submissions(rng: random.Random, trainers: int, *, scripted: bool) -> list[Submission]:
    """Each trainer's jobs, of two runs, with duplicates by the other trainers."""
    submissions = []
    poison_left = 1
    for trainer in range(trainers):
        for number in range(rng.randint(6, 11)):
            words = ["ok"] * 14 + ["nan", "broken", "full", "full", "invalid"]
            word = rng.choice(words if scripted else ["ok"] * 14 + ["invalid"])
            if scripted and poison_left and rng.random() < 0.03:
                word, poison_left = "crash", 0
            run = f"run-{rng.randint(0, 1)}"
            timeout = rng.uniform(0.1, 1.2) if rng.random() < 0.12 else LONG
            first = Submission(
                at=rng.uniform(0.0, SUBMIT_SECONDS),
                trainer=f"trainer-{trainer}",
                job=f"{word} {run}/{trainer}-{number}",
                run=run,
                content=rng.randrange(1, 1 << 30),
                timeout=timeout,
            )
            submissions.append(first)
            if rng.random() < 0.2:  # somebody else sends the same id, now and then other content
                other = rng.randrange(1, 1 << 30) if rng.random() < 0.3 else first.content
                submissions.append(
                    Submission(
                        at=first.at + rng.choice((0.0, rng.uniform(0.0, 1.5))),
                        trainer=f"trainer-{rng.randrange(trainers)}",
                        job=first.job,
                        run=run,
                        content=other,
                        timeout=LONG,
                    )
                )
    return submissions


def _faults(
    rng: random.Random, dispatchers: int, teachers: int, trainers: int, real_teacher: bool
) -> list[Fault]:
    """Two to five blows to processes."""
    targets = [
        *(f"dispatcher-{number}" for number in range(dispatchers)),
        *(f"teacher-{number}" for number in range(teachers)),
        *(f"trainer-{number}" for number in range(trainers)),
        "intake",
        *("redis",) * 2,
    ]
    faults = []
    for _ in range(rng.randint(2, 5)):
        target = rng.choice(targets)
        kinds = [FaultKind.KILL, FaultKind.PAUSE]
        if target == "redis":
            kinds.append(FaultKind.POWER_CUT)
        elif not target.startswith("trainer"):
            kinds.append(FaultKind.STOP)
        if real_teacher and target.startswith("teacher"):  # it takes seconds to start again
            kinds = [FaultKind.PAUSE]
        kind = rng.choice(kinds)
        match kind:
            case FaultKind.PAUSE:
                seconds = rng.uniform(*PAUSE_SECONDS)
            case FaultKind.POWER_CUT:
                seconds = rng.uniform(0.1, 0.9)
            case _:
                seconds = rng.uniform(0.0, 0.5)
        faults.append(Fault(rng.uniform(0.2, FAULT_SECONDS), kind, target, seconds))
    if real_teacher and rng.random() < 0.5:
        faults.append(Fault(rng.uniform(0.2, 2.0), FaultKind.KILL, "teacher-0"))
    return faults


def _cancels(rng: random.Random, submissions: list[Submission]) -> list[Fault]:
    cancels = []
    for submission in submissions:
        if rng.random() < 0.12:
            at = submission.at + rng.uniform(0.0, 1.0)
            cancels.append(Fault(at, FaultKind.CANCEL_JOB, submission.job))
    if rng.random() < 0.15:
        at = rng.uniform(0.5, FAULT_SECONDS)
        cancels.append(Fault(at, FaultKind.CANCEL_RUN, f"run-{rng.randint(0, 1)}"))
    return cancels
