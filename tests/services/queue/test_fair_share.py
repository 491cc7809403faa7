"""Virtual token counters, compared with their plain definition."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.queue.fair_share import FairShare

RUNS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), RUNS, st.none()),
        st.tuples(st.just("leave"), RUNS, st.none()),
        st.tuples(st.just("charge"), RUNS, st.integers(-50, 200)),
    ),
    max_size=200,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_first_run_is_the_active_one_with_the_lowest_counter(
    steps: list[tuple[str, str, int | None]],
) -> None:
    share = FairShare()
    counters, active, last_left = dict.fromkeys("abcd", 0.0), set[str](), 0.0
    for step, run, tokens in steps:
        if step == "enter" and run not in active:
            lowest = min((counters[other] for other in active), default=last_left)
            counters[run] = max(counters[run], lowest)
            active.add(run)
            share.enter(run)
        elif step == "leave":
            if run in active:
                last_left = counters[run]
                active.discard(run)
            share.leave(run)
        elif tokens is not None:
            counters[run] += tokens
            share.charge(run, tokens)
        expected = min(active, key=lambda run: (counters[run], run), default=None)
        assert share.first() == expected
        assert {run for run in "abcd" if run in share} == active


def test_many_charges_and_credits_leave_no_growing_heap() -> None:
    share = FairShare()
    share.enter("a")
    share.enter("b")
    for _ in range(10_000):
        share.charge("a", 10.0)
        share.charge("a", -10.0)
    assert len(share._order) < 100
    assert share.first() == "a"
