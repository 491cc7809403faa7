"""Whether a history is one that the queue's promise allows.

Of every accepted job: it ends as exactly one of result, typed error, cancelled, expired; whoever
asks is told the same; a result is what the teacher computes for that content. Of the whole: nothing
is left over, and the accounts add up. What Redis may forget in a crash (`Blow.lost_from` to its
return) is the only thing that may be taken back.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.queue.records import JobState
from tests.campaign.history import Blow, Call, Cancel, Final, History, Told

TOLERANCE = 1e-4
"""Scores of two computations of the same content differ by less."""
LATE = 1.0
"""Seconds that an answer may take from the queue to a trainer that is not paused."""
MAX_ATTEMPTS = 3
OUTCOME_OF = {
    Told.RESULT: JobState.DONE,
    Told.FAILED: JobState.FAILED,
    Told.DEAD: JobState.DEAD,
    Told.CANCELLED: JobState.CANCELLED,
}
"""What a call is told when its job has ended in a state."""


@dataclass(frozen=True)
class Violation:
    """Something that the promise does not allow."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


def check(history: History) -> list[Violation]:
    """All violations of a history; empty when it keeps the promise."""
    found = [Violation("processes run until they are ended", one) for one in history.broken]
    found += [Violation("nothing is left over", one) for one in history.leftovers]
    for job in sorted({call.job for call in history.calls} | set(history.finals)):
        view = _View(history, job)
        for rule in RULES:
            found += (Violation(rule.__name__.strip("_").replace("_", " "), f"{job!r} {what}")
                      for what in rule(view))  # fmt: skip
    for run in sorted({reference.run for reference in history.references.values()}):
        found += [
            Violation("accounts add up", f"{run!r} {what}") for what in _accounts(history, run)
        ]
    return found


class _View:
    """What concerns one job."""

    def __init__(self, history: History, job: str) -> None:
        self.history = history
        self.job = job
        self.calls = [call for call in history.calls if call.job == job]
        self.final = history.finals.get(job)
        self.run = next(ref.run for (name, _), ref in history.references.items() if name == job)
        self.cancels = [c for c in history.cancels if c.job == job or c.run == self.run]
        self.behaviour = job.split()[0]
        self._lag = LATE + sum(
            blow.ended - blow.begun
            for blow in history.blows
            if blow.kind == "pause" and blow.target.startswith(("trainer", "intake"))
        )

    def told(self, *kinds: Told) -> list[Call]:
        """Calls that were told so, the first first."""
        found = [call for call in self.calls if call.told in kinds]
        return sorted(found, key=lambda call: call.told_at or 0.0)

    def may_be_forgotten(self, at: float | None) -> bool:
        """Whether Redis may have forgotten, in a crash, what somebody was told then."""
        return at is not None and any(
            blow.lost_from is not None and blow.lost_from <= at and at - self._lag <= blow.ended
            for blow in self.history.blows
        )

    def blows(self, *targets: str, begun: float, ended: float) -> list[Blow]:
        """Faults on such processes within a time."""
        return [
            blow
            for blow in self.history.blows
            if blow.target.startswith(targets) and blow.begun <= ended and blow.ended >= begun
        ]

    def may_be_tried_anew_after(self, cancel: Cancel) -> bool:
        """Whether somebody may have sent the job again when it had been cancelled."""
        if any(at >= cancel.asked for call in self.calls for at in (call.sent, *call.resent)):
            return True
        if self.blows("redis", "intake", begun=self.calls[0].sent, ended=cancel.told):
            return True  # the job may have been on its way into the queue a second time
        return sum(call.sent >= cancel.asked - self._lag for call in self.calls) > 1


Rule = Callable[[_View], Iterator[str]]


def _every_call_is_answered(view: _View) -> Iterator[str]:
    for call in view.calls:
        if call.told is None and not call.killed:
            yield f"call {call.name} was never answered"


def _errors_are_typed_and_have_a_cause(view: _View) -> Iterator[str]:
    for call in view.calls:
        assert call.told_at is not None or call.told is None
        time_over = (call.told_at or 0.0) - call.sent >= call.timeout - 0.05
        if call.told is Told.OTHER and not time_over:
            yield f"call {call.name} was told {call.reason}"
        if call.told is Told.EXPIRED and not (time_over or _moved_deadline_was_lost(view, call)):
            yield f"call {call.name} was told that its time is over before it was"
        if call.told is Told.INVALID and view.behaviour != "invalid":
            yield f"call {call.name} was refused: {call.reason}"
        if call.told is Told.CONFLICT and len({other.content for other in view.calls}) == 1:
            yield f"call {call.name} was told of other content that nobody sent"
        if call.told is Told.FAILED and (view.behaviour, call.reason) != ("nan", "NOT_FINITE"):
            yield f"call {call.name} failed: {call.reason}"
        if call.told is Told.CANCELLED and not any(
            cancel.asked <= (call.told_at or 0.0) for cancel in view.cancels
        ):
            yield f"call {call.name} was told of a cancellation that nobody asked for"


def _moved_deadline_was_lost(view: _View, call: Call) -> bool:
    """A later caller moves a job's deadline; a crash of Redis may forget that."""
    return any(
        blow.lost_from is not None and blow.ended >= call.sent for blow in view.history.blows
    )


def _dead_jobs_had_their_deliveries(view: _View) -> Iterator[str]:
    """A job is put aside after three bad deliveries: its own doing, or that of as many faults.

    A machine that stalls loses leases as a pause does. A poisonous job may have been at the same
    teacher, but only once: then both have failed before.
    """
    poisonous = any(call.job.startswith("crash ") for call in view.history.calls)
    for call in view.told(Told.DEAD):
        if view.behaviour in ("crash", "broken"):
            continue
        assert call.told_at is not None
        first = min(other.sent for other in view.calls)
        targets = ("dispatcher", "teacher", "redis", "machine")
        blows = view.blows(*targets, begun=first, ended=call.told_at)
        if len(blows) + poisonous < MAX_ATTEMPTS:
            yield f"was put aside after {len(blows)} faults ({call.reason})"


def _results_are_right(view: _View) -> Iterator[str]:
    if view.behaviour in ("crash", "broken", "nan", "invalid"):
        for call in view.told(Told.RESULT):
            yield f"call {call.name} got a result, though no teacher gives one"
        return
    for call in view.told(Told.RESULT):
        reference = view.history.references[view.job, call.content]
        if not _same(call.scores, reference.scores):
            yield f"call {call.name} got other scores than content {call.content} has"
    if view.final is not None and view.final.state is JobState.DONE:
        contents = {call.content for call in view.calls}
        if not any(
            _same(view.final.scores, view.history.references[view.job, content].scores)
            for content in contents
        ):
            yield "holds scores of no content that was sent"


def _one_content_has_the_id(view: _View) -> Iterator[str]:
    joined = [
        call
        for call in view.told(Told.RESULT, Told.FAILED, Told.DEAD, Told.CANCELLED)
        if not view.may_be_forgotten(call.told_at)
    ]
    if len({call.content for call in joined}) > 1:
        yield "has outcomes of more than one content"


def _accepted_jobs_are_not_lost(view: _View) -> Iterator[str]:
    if view.final is not None:
        if not view.final.state.finished:
            yield f"is {view.final.state} after the run"
        return
    evidence = [
        f"seen {sighting.state} at {sighting.at:.2f} s"
        for sighting in view.history.sightings
        if sighting.job == view.job
        and sighting.state is not None
        and not view.may_be_forgotten(sighting.at)
    ]
    evidence += [
        f"call {call.name} was told {call.told} at {call.told_at:.2f} s"
        for call in view.told(*OUTCOME_OF)
        if not view.may_be_forgotten(call.told_at)
    ]
    if evidence and not _dropped(view):
        yield f"is unknown after the run, but {evidence[-1]}"


def _dropped(view: _View) -> bool:
    """Whether it may have been dead when its run's dead jobs were dropped."""
    return view.behaviour in ("crash", "broken") and any(
        cancel.run is not None for cancel in view.cancels
    )


def _outcomes_stay(view: _View) -> Iterator[str]:
    """Results and dead jobs are for ever; what failed or was cancelled, until it is sent again."""
    for call in view.told(Told.RESULT, Told.DEAD):
        assert call.told is not None
        assert call.told_at is not None
        if view.may_be_forgotten(call.told_at) or (call.told is Told.DEAD and _dropped(view)):
            continue
        if view.final is not None and view.final.state is not OUTCOME_OF[call.told]:
            yield f"is {view.final.state}, but call {call.name} was told {call.told}"
        for later in view.calls:
            answered_so = later.told in (call.told, Told.EXPIRED, Told.CONFLICT, None)
            if later.sent > call.told_at and not answered_so:
                yield f"call {later.name} was told {later.told} after {call.told}"


def _cancelled_jobs_have_no_result(view: _View) -> Iterator[str]:
    for cancel in view.cancels:
        if cancel.state is not JobState.CANCELLED or view.may_be_forgotten(cancel.told):
            continue
        if view.may_be_tried_anew_after(cancel):
            continue
        if view.final is not None and view.final.state is not JobState.CANCELLED:
            yield f"is {view.final.state} though it was cancelled at {cancel.told:.2f} s"
        for call in view.told(Told.RESULT, Told.FAILED, Told.DEAD):
            yield f"call {call.name} was told {call.told}, after it was cancelled"


def _all_are_told_the_same(view: _View) -> Iterator[str]:
    """Two outcomes of one id need a reason: a cancellation, or Redis forgot the first."""
    told = view.told(Told.RESULT, Told.FAILED, Told.DEAD)
    firm = [call for call in told if not view.may_be_forgotten(call.told_at)]
    if len({call.told for call in firm}) > 1 and not _dropped(view):
        yield "was told as " + " and ".join(sorted({str(call.told) for call in firm}))
    if view.told(Told.CANCELLED) and not view.cancels:
        yield "was told as cancelled by nobody"


def _refused_jobs_are_not_queued(view: _View) -> Iterator[str]:
    if view.behaviour == "invalid" and view.final is not None:
        yield "is in the queue, though it is invalid"


RULES: Sequence[Rule] = (
    _every_call_is_answered,
    _errors_are_typed_and_have_a_cause,
    _dead_jobs_had_their_deliveries,
    _results_are_right,
    _one_content_has_the_id,
    _accepted_jobs_are_not_lost,
    _outcomes_stay,
    _cancelled_jobs_have_no_result,
    _all_are_told_the_same,
    _refused_jobs_are_not_queued,
)


def _same(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, rtol=0, atol=TOLERANCE))


def _accounts(history: History, run: str) -> Iterator[str]:
    """Compares what a run was charged with how its jobs ended."""
    finals = [one for one in history.finals.values() if _run_of(history, one) == run]
    stats = history.accounts.get(run)
    if stats is None:
        if finals:
            yield "is unknown, but its jobs are not"
        return
    ended = Counter(one.state for one in finals)
    for state, counted in (
        (JobState.DONE, stats.done),
        (JobState.DEAD, stats.dead),
    ):
        if counted != ended[state]:
            yield f"counts {counted} {state}, but {ended[state]} jobs are"
    for state, counted in (
        (JobState.FAILED, stats.failed),
        (JobState.CANCELLED, stats.cancelled),
        (JobState.EXPIRED, stats.expired),
    ):  # one that is sent again ends more than once
        if counted < ended[state]:
            yield f"counts {counted} {state}, but {ended[state]} jobs are"
    naive = charged = 0
    for one in finals:
        references = [ref for (job, _), ref in history.references.items() if job == one.job]
        if one.cost not in {reference.tokens_computed for reference in references}:
            yield f"job {one.job!r} costs {one.cost} tokens, which no content of it does"
        if one.state is JobState.DONE:
            naive += sum(ref.tokens_naive for ref in references if _same(one.scores, ref.scores))
        if one.state in (JobState.DONE, JobState.FAILED, JobState.DEAD):
            charged += one.cost
    if stats.tokens_naive != naive:
        yield f"has results of {stats.tokens_naive} tokens, but those that are there have {naive}"
    dropped = any(cancel.run == run for cancel in history.cancels)  # dead jobs, charged before
    may_be_more = dropped or stats.failed > ended[JobState.FAILED] or stats.cancelled
    if stats.tokens < charged or (stats.tokens > charged and not may_be_more):
        yield f"is charged {stats.tokens} tokens, but its jobs took {charged}"


def _run_of(history: History, final: Final) -> str:
    return next(ref.run for (job, _), ref in history.references.items() if job == final.job)
