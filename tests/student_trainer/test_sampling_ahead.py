import threading

import pytest

from student_trainer.sampling_ahead import SamplingAhead


def run(staleness: int, steps: int, boundary: int, *, in_background: bool) -> list[tuple[int, int]]:
    """Trains by counting: what was sampled for each step by which weights."""
    weights = 0
    ahead = SamplingAhead(lambda step: (step, weights), staleness, in_background=in_background)
    taken = []
    for step in range(steps):
        last = min(steps, (step // boundary + 1) * boundary) - 1
        taken.append(ahead.take(step, last))
        ahead.settle()
        weights = step + 1
    ahead.close()
    return taken


@pytest.mark.parametrize("in_background", [False, True])
def test_without_staleness_every_step_is_sampled_by_its_own_weights(in_background: bool) -> None:
    assert run(0, 5, 10, in_background=in_background) == [(step, step) for step in range(5)]


@pytest.mark.parametrize("in_background", [False, True])
def test_staleness_is_a_bound_that_is_reached(in_background: bool) -> None:
    taken = run(2, 6, 10, in_background=in_background)
    assert taken == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 3)]


@pytest.mark.parametrize("in_background", [False, True])
def test_nothing_is_sampled_over_a_checkpoint(in_background: bool) -> None:
    taken = run(1, 6, 3, in_background=in_background)
    assert taken == [(0, 0), (1, 0), (2, 1), (3, 3), (4, 3), (5, 4)]


def test_sampling_goes_on_in_the_background() -> None:
    goes_on, began = threading.Event(), threading.Event()

    def sample(step: int) -> int:
        if step == 1:
            began.set()
            assert goes_on.wait(240)
        return step

    ahead = SamplingAhead(sample, 1, in_background=True)
    assert ahead.take(0, 5) == 0  # step 1 is still being sampled
    assert began.wait(240)
    goes_on.set()
    ahead.settle()
    assert ahead.take(1, 1) == 1
    ahead.close()


@pytest.mark.parametrize("in_background", [False, True])
def test_what_sampling_raises_comes_out(in_background: bool) -> None:
    def sample(step: int) -> int:
        raise ValueError(f"step {step}")

    ahead = SamplingAhead(sample, 0, in_background=in_background)
    with pytest.raises(ValueError, match="step 0"):
        ahead.take(0, 0)
    ahead.close()
