"""A few minutes' worth of the soak's traffic through the real processes."""

from pathlib import Path

import pytest

from tests.load.soak import Plan, soak
from tests.load.traffic import (
    SAMPLE_EVERY,
    Kind,
    kind_of,
    make_job,
    snapshot_of,
    takes_snapshots,
)

PLAN = Plan(runs=4, hours=0.1, step_seconds=0.0, sample_seconds=0.05)
"""Twelve steps of each run: every kind of job, and one refresh of the weights. The samples of the
second or two that a fast machine takes are enough for a line through them."""


@pytest.mark.timeout(900)  # two minutes on a busy machine
def test_nothing_is_lost_and_accounts_are_what_was_sent(tmp_path: Path) -> None:
    progress: list[int] = []
    report = soak(PLAN, tmp_path, progress.append)
    jobs = PLAN.runs * PLAN.jobs
    assert report.lost_or_wrong() == []
    assert report.jobs == jobs == progress[-1]
    kinds = [kind_of(run, number) for run in range(PLAN.runs) for number in range(PLAN.jobs)]
    assert set(kinds) == set(Kind)
    assert report.ends["refused"] == kinds.count(Kind.REFUSED)
    ended = sum(report.total(state) for state in ("done", "failed", "cancelled", "expired"))
    assert ended == jobs - kinds.count(Kind.REFUSED)
    duplicates = kinds.count(Kind.TWICE) + kinds.count(Kind.AGAIN)
    assert sum(run.calls for run in report.sent) == jobs + duplicates
    assert report.verified.jobs == PLAN.runs * -(-PLAN.jobs // SAMPLE_EVERY)
    # So short a time says nothing of memory, and pools of connections still fill; `make soak` looks
    # at both. A descriptor left by each job would show.
    for process in report.flatness():
        assert process.fds.end < jobs / 4, process
    names = {sample.process for sample in report.samples}
    trainers = {f"trainer {run}" for run in range(PLAN.runs)}
    assert names == {"redis", "services", "teacher"} | trainers


def test_jobs_are_the_same_for_the_same_number_and_differ_otherwise() -> None:
    first, again = (make_job(3, 10, "f", None) for _ in range(2))
    other, other_run = make_job(3, 12, "f", None), make_job(7, 10, "f", None)
    assert first.id == again.id == "load-3/10"
    assert len(first.contexts) == len(first.responses) == 8
    assert len(first.pairs) == 40
    assert first.token_ids is not None
    for one, same in zip(first.contexts, again.contexts, strict=True):
        assert one.tobytes() == same.tobytes()
    contents = {job.contexts[0].tobytes() for job in (first, other, other_run)}
    assert len(contents) == 3


def test_a_twin_has_the_content_of_the_job_before() -> None:
    number = next(number for number in range(960) if kind_of(0, number) is Kind.TWIN)
    twin, before = make_job(0, number, "f", None), make_job(0, number - 1, "f", None)
    assert twin.id != before.id
    assert [ids.tobytes() for ids in twin.contexts] == [ids.tobytes() for ids in before.contexts]


def test_every_fourth_run_has_its_weights_refreshed_every_ten_steps() -> None:
    assert [run for run in range(8) if takes_snapshots(run)] == [3, 7]
    assert [snapshot_of(3, number) for number in (0, 79, 80, 160, 959)] == [0, 0, 1, 2, 11]
    assert snapshot_of(2, 959) == 0
    assert snapshot_of(3, PLAN.jobs - 1) == 1
