"""Schedules are made from the seed alone, and together hold every kind of fault."""

from tests.campaign.schedule import LONG, FaultKind, make_schedule
from tests.campaign.test_campaign import SEEDS


def test_a_seed_is_always_the_same_schedule() -> None:
    assert make_schedule(7) == make_schedule(7)
    assert str(make_schedule(7)) == str(make_schedule(7))
    assert make_schedule(7) != make_schedule(8)
    assert make_schedule(7) != make_schedule(7, real_teacher=True)


def test_the_text_tells_every_event() -> None:
    schedule = make_schedule(7)
    assert len(str(schedule).splitlines()) == 1 + len(schedule.submissions) + len(schedule.faults)


def test_the_seeds_of_the_short_campaign_hold_everything() -> None:
    schedules = [make_schedule(seed) for seed in SEEDS]
    struck = {
        (fault.kind, fault.target.split("-")[0])
        for schedule in schedules
        for fault in schedule.faults
        if fault.kind not in (FaultKind.CANCEL_JOB, FaultKind.CANCEL_RUN)
    }
    for process in ("redis", "dispatcher", "teacher", "trainer", "intake"):
        assert {(FaultKind.KILL, process), (FaultKind.PAUSE, process)} <= struck
    assert (FaultKind.POWER_CUT, "redis") in struck
    assert {fault.kind for one in schedules for fault in one.faults} == set(FaultKind)
    sent = [one for schedule in schedules for one in schedule.submissions]
    words = {one.job.split()[0] for one in sent}
    assert words == {"ok", "nan", "broken", "full", "invalid", "crash"}
    assert any(one.timeout < LONG for one in sent)
    contents = {(one.job, one.content) for one in sent}
    assert len({job for job, _ in contents}) < len(contents) < len(sent)


def test_a_real_teacher_gets_no_scripted_misbehaviour() -> None:
    for seed in range(20):
        sent = make_schedule(seed, real_teacher=True).submissions
        assert {one.job.split()[0] for one in sent} <= {"ok", "invalid"}
