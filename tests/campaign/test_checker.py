"""The checker finds each way of breaking the promise, in histories that are made up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.queue.records import JobState, RunStats
from tests.campaign.checker import check
from tests.campaign.history import (
    Blow,
    Call,
    Cancel,
    Final,
    History,
    Reference,
    Sighting,
    Told,
    read_calls,
)

JOB, SCORES, OTHERS = "ok run/1", (-1.0, -2.0), (-3.0, -4.0)


def history() -> History:
    """One job, sent at 1 s, seen, scored, and told at 2 s."""
    return History(
        references={
            (JOB, 7): Reference("run", SCORES, tokens_computed=10, tokens_naive=12),
            (JOB, 8): Reference("run", OTHERS, tokens_computed=10, tokens_naive=12),
        },
        calls=[told(Told.RESULT)],
        sightings=[Sighting(1.5, JOB, JobState.QUEUED)],
        finals={JOB: Final(JOB, JobState.DONE, 10, scores=SCORES)},
        accounts={"run": RunStats("run", done=1, tokens=10, tokens_naive=12)},
    )


def told(outcome: Told | None, sent: float = 1.0, at: float = 2.0, **facts: Any) -> Call:
    """A call with 60 s; a result has the right scores."""
    call = Call("trainer-0.0/0", JOB, 7, sent, 60.0)
    if outcome is not None:
        call = replace(call, told=outcome, told_at=at)
    if outcome is Told.RESULT:
        call.scores = list(SCORES)
    return replace(call, **facts)


def cancelled(state: JobState = JobState.CANCELLED, asked: float = 1.6) -> Cancel:
    return Cancel(asked, asked + 0.1, JOB, None, state)


def lose(made_up: History) -> None:
    made_up.calls, made_up.finals, made_up.accounts = [], {}, {}
    made_up.calls = [told(None, killed=True)]


def crash(begun: float, lost_from: float | None) -> Blow:
    return Blow("power cut", "redis", begun, begun + 0.3, lost_from)


def end_as(made_up: History, state: JobState, **accounts: Any) -> None:
    made_up.finals = {JOB: Final(JOB, state, 10)}
    made_up.accounts = {"run": RunStats("run", **accounts)}


def test_a_history_that_keeps_the_promise() -> None:
    assert check(history()) == []


def never_answered(made_up: History) -> None:
    made_up.calls.append(told(None))


def lost(made_up: History) -> None:
    lose(made_up)


def lost_after_a_result(made_up: History) -> None:
    lose(made_up)
    made_up.sightings, made_up.calls = [], [told(Told.RESULT)]


def lost_before_the_window(made_up: History) -> None:
    lose(made_up)
    made_up.blows = [crash(3.0, lost_from=2.1)]


def unfinished(made_up: History) -> None:
    made_up.calls = [told(None, killed=True)]
    end_as(made_up, JobState.CLAIMED)


def other_scores(made_up: History) -> None:
    made_up.calls[0].scores = list(OTHERS)


def other_scores_in_the_queue(made_up: History) -> None:
    made_up.finals[JOB] = replace(made_up.finals[JOB], scores=(-9.0, -9.0))


def two_contents(made_up: History) -> None:
    made_up.calls.append(told(Told.RESULT, name="b", content=8, scores=list(OTHERS)))


def two_outcomes(made_up: History) -> None:
    made_up.calls.append(told(Told.DEAD, name="b"))


def dead_without_faults(made_up: History) -> None:
    made_up.calls = [told(Told.DEAD)]
    end_as(made_up, JobState.DEAD, dead=1, tokens=10)


def result_after_cancelled(made_up: History) -> None:
    made_up.cancels = [cancelled()]


def done_though_cancelled(made_up: History) -> None:
    made_up.cancels, made_up.calls = [cancelled()], [told(Told.CANCELLED)]


def cancelled_by_nobody(made_up: History) -> None:
    made_up.calls = [told(Told.CANCELLED)]
    end_as(made_up, JobState.CANCELLED, cancelled=1)


def cancelled_before_it_was_asked(made_up: History) -> None:
    cancelled_by_nobody(made_up)
    made_up.cancels = [cancelled(asked=3.0)]


def expired_too_early(made_up: History) -> None:
    made_up.calls = [told(Told.EXPIRED)]
    end_as(made_up, JobState.EXPIRED, expired=1)


def conflict_with_nobody(made_up: History) -> None:
    made_up.calls.append(told(Told.CONFLICT))


def refused_without_reason(made_up: History) -> None:
    made_up.calls.append(told(Told.INVALID, reason="TOKEN_ID_OUT_OF_RANGE"))


def failed_without_reason(made_up: History) -> None:
    made_up.calls = [told(Told.FAILED, reason="ENGINE_FAILED")]
    end_as(made_up, JobState.FAILED, failed=1, tokens=10)


def untyped_error(made_up: History) -> None:
    made_up.calls.append(told(Told.OTHER, reason="UNKNOWN"))


def result_that_does_not_stay(made_up: History) -> None:
    made_up.cancels = [cancelled(asked=2.5)]
    end_as(made_up, JobState.CANCELLED, cancelled=1)


def cancelled_after_a_result(made_up: History) -> None:
    made_up.cancels = [cancelled(JobState.DONE, asked=2.5)]
    made_up.calls.append(told(Told.CANCELLED, sent=3.0, at=4.0))


def leftovers(made_up: History) -> None:
    made_up.leftovers = ["key leases is there"]


def a_process_that_ended(made_up: History) -> None:
    made_up.broken = ["intake ended with exit code 1"]


def counted_twice(made_up: History) -> None:
    made_up.accounts = {"run": RunStats("run", done=2, tokens=10, tokens_naive=12)}


def result_charged_twice(made_up: History) -> None:
    made_up.accounts = {"run": RunStats("run", done=1, tokens=20, tokens_naive=12)}


def tokens_counted_twice(made_up: History) -> None:
    made_up.accounts = {"run": RunStats("run", done=1, tokens=10, tokens_naive=24)}


def cost_of_no_content(made_up: History) -> None:
    made_up.finals[JOB] = replace(made_up.finals[JOB], cost=11)
    made_up.accounts = {"run": RunStats("run", done=1, tokens=11, tokens_naive=12)}


def run_forgotten(made_up: History) -> None:
    made_up.accounts = {}


@pytest.mark.parametrize(
    ("breaking", "rule"),
    [
        (never_answered, "every call is answered"),
        (lost, "accepted jobs are not lost"),
        (lost_after_a_result, "accepted jobs are not lost"),
        (lost_before_the_window, "accepted jobs are not lost"),
        (unfinished, "accepted jobs are not lost"),
        (other_scores, "results are right"),
        (other_scores_in_the_queue, "results are right"),
        (two_contents, "one content has the id"),
        (two_outcomes, "all are told the same"),
        (dead_without_faults, "dead jobs had their deliveries"),
        (result_after_cancelled, "cancelled jobs have no result"),
        (done_though_cancelled, "cancelled jobs have no result"),
        (cancelled_by_nobody, "errors are typed and have a cause"),
        (cancelled_before_it_was_asked, "errors are typed and have a cause"),
        (expired_too_early, "errors are typed and have a cause"),
        (conflict_with_nobody, "errors are typed and have a cause"),
        (refused_without_reason, "errors are typed and have a cause"),
        (failed_without_reason, "errors are typed and have a cause"),
        (untyped_error, "errors are typed and have a cause"),
        (result_that_does_not_stay, "outcomes stay"),
        (cancelled_after_a_result, "outcomes stay"),
        (leftovers, "nothing is left over"),
        (a_process_that_ended, "processes run until they are ended"),
        (counted_twice, "accounts add up"),
        (result_charged_twice, "accounts add up"),
        (tokens_counted_twice, "accounts add up"),
        (cost_of_no_content, "accounts add up"),
        (run_forgotten, "accounts add up"),
    ],
)
def test_a_broken_promise_is_found(breaking: Callable[[History], None], rule: str) -> None:
    made_up = history()
    breaking(made_up)
    assert rule in {violation.rule for violation in check(made_up)}


def forgotten_in_a_crash(made_up: History) -> None:
    lose(made_up)
    made_up.blows = [crash(2.0, lost_from=1.2)]


def sent_again_after_a_cancellation(made_up: History) -> None:
    made_up.cancels = [cancelled()]
    made_up.calls = [
        told(Told.CANCELLED, at=1.8),
        told(Told.RESULT, name="b", sent=1.9, at=2.5),
    ]
    made_up.accounts = {"run": RunStats("run", done=1, cancelled=1, tokens=10, tokens_naive=12)}


def tried_again_by_the_client(made_up: History) -> None:
    made_up.cancels = [cancelled()]
    made_up.calls = [told(Told.RESULT, resent=[1.7], at=2.5)]


def cancellation_forgotten_in_a_crash(made_up: History) -> None:
    made_up.cancels = [cancelled()]
    made_up.blows = [crash(2.0, lost_from=1.5)]


def conflict_with_other_content(made_up: History) -> None:
    made_up.calls.append(told(Told.CONFLICT, name="b", content=8))


def result_after_expiry_of_a_short_call(made_up: History) -> None:
    made_up.calls.append(told(Told.EXPIRED, name="b", timeout=0.5))


def dead_job_dropped_with_its_run(made_up: History) -> None:
    made_up.cancels = [Cancel(3.0, 3.1, None, "run", None)]
    made_up.accounts = {"run": RunStats("run", done=1, tokens=20, tokens_naive=12)}


def dead_after_three_faults(made_up: History) -> None:
    made_up.calls = [told(Told.DEAD, at=9.0)]
    made_up.blows = [Blow("kill", "dispatcher-0", at, at, None) for at in (2.0, 4.0, 6.0)]
    end_as(made_up, JobState.DEAD, dead=1, tokens=10)


@pytest.mark.parametrize(
    "change",
    [
        forgotten_in_a_crash,
        sent_again_after_a_cancellation,
        tried_again_by_the_client,
        cancellation_forgotten_in_a_crash,
        conflict_with_other_content,
        result_after_expiry_of_a_short_call,
        dead_job_dropped_with_its_run,
        dead_after_three_faults,
    ],
)
def test_what_the_promise_allows(change: Callable[[History], None]) -> None:
    made_up = history()
    change(made_up)
    assert check(made_up) == []


def test_a_trainer_s_log_is_read() -> None:
    lines = [
        '{"at": 1.0, "kind": "sent", "call": "t.0/0", "job": "a", "content": 1, "timeout": 60.0}',
        '{"at": 1.1, "kind": "sent", "call": "t.0/1", "job": "b", "content": 2, "timeout": 60.0}',
        '{"at": 1.2, "kind": "resent", "call": "t.0/0", "reason": "DRAINING"}',
        '{"at": 2.0, "kind": "told", "call": "t.0/0", "outcome": "result", "reason": "", '
        '"scores": [-1.0]}',
    ]
    first, second = read_calls(lines, killed=["t.0"])
    assert (first.resent, first.told, first.scores) == ([1.2], Told.RESULT, [-1.0])
    assert (first.killed, second.killed) == (False, True)
