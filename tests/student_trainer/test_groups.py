import numpy as np
import pytest

from student_trainer.groups import group_advantages
from tests.student_trainer.rollouts_of import make_group


def test_advantages_use_the_sample_deviation() -> None:
    rewards = [1.0, 0.0, 0.0, 0.0]
    expected = (np.array(rewards) - 0.25) / (np.std(rewards, ddof=1) + 1e-6)
    np.testing.assert_allclose(group_advantages(rewards), expected)
    assert group_advantages(rewards)[0] == pytest.approx(1.499997000006)


@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0], [0.0, 0.0], [1.0]])
def test_equal_rewards_give_no_advantage(rewards: list[float]) -> None:
    assert not group_advantages(rewards).any()


@pytest.mark.parametrize(("verdicts", "mixed"), [("rr", False), ("wn", False), ("rwn", True)])
def test_mixed(verdicts: str, mixed: bool) -> None:
    assert make_group(verdicts).mixed is mixed
