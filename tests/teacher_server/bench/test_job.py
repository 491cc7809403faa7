import numpy as np
import pytest

from counterhint.errors import InputError
from teacher_server.bench.job import GroupShape, group_job


def test_the_default_group_is_the_one_of_the_papers_setting() -> None:
    job = group_job(GroupShape(), 1000)
    assert (job.tokens_naive, job.tokens_computed) == (32_000, 12_800)
    assert len(np.unique(job.pairs, axis=0)) == 40
    assert (job.pairs[:, 0] != job.pairs[:, 1]).all()


def test_jobs_of_two_seeds_share_no_prefix_and_no_id() -> None:
    one, again, other = (group_job(GroupShape(3, 1, 8, 4), 1000, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.contexts, again.contexts)
    assert one.id == again.id != other.id
    assert not set(np.array(one.contexts)[:, 0]) & set(np.array(other.contexts)[:, 0])


def test_a_group_too_small_for_its_hints_is_refused() -> None:
    with pytest.raises(InputError, match=r"--wrong 2 with --group 3.*at least 4"):
        group_job(GroupShape(3, 2, 8, 4), 1000)
