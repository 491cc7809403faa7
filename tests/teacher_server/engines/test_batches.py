import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from teacher_server.engines.batches import plan_batches
from tests.teacher_server.jobs import random_job

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@given(st.data(), lengths, lengths, st.integers(1, 400))
def test_every_pair_is_in_one_batch_that_keeps_the_bound(data, contexts, responses, bound):
    pair = st.tuples(st.integers(0, len(contexts) - 1), st.integers(0, len(responses) - 1))
    pairs = data.draw(st.lists(pair, min_size=1, max_size=30))
    job = random_job(contexts, responses, pairs)

    planned = []
    for batch in plan_batches(job, bound):
        lengths = job.context_lengths[batch.contexts]
        assert len(batch.contexts) == 1 or len(lengths) * lengths.max() <= bound
        for responses_batch in batch.responses:
            planned += responses_batch.pairs.tolist()
            context_of_row = batch.contexts[responses_batch.rows]
            assert context_of_row.tolist() == job.pairs[responses_batch.pairs, 0].tolist()
            assert (np.diff(responses_batch.rows) >= 0).all()
            fed = job.pair_lengths[responses_batch.pairs] - 1
            assert len(fed) == 1 or len(fed) * (lengths.max() + fed.max()) <= bound
            assert (fed == 0).all() or (fed > 0).all()
    assert sorted(planned) == list(range(len(pairs)))


@given(st.data(), lengths)
def test_a_context_is_computed_once_and_only_when_used(data, contexts):
    used = data.draw(st.sets(st.integers(0, len(contexts) - 1), min_size=1))
    job = random_job(contexts, [3], [(context, 0) for context in used for _ in range(2)])
    computed = [index for batch in plan_batches(job, 100) for index in batch.contexts.tolist()]
    assert sorted(computed) == sorted(used)


def test_a_small_group_takes_one_pass_over_contexts_and_one_over_responses():
    pairs = [(context, response) for context in range(8) for response in range(5)]
    job = random_job([90, 101, 95, 99, 88, 100, 97, 93], [40, 35, 44, 30, 41], pairs)
    (batch,) = plan_batches(job, 16384)
    assert len(batch.contexts) == 8
    assert len(batch.responses) == 1


def test_short_responses_do_not_wait_for_long_ones():
    job = random_job([10], [20, 900], [(0, 0)] * 20 + [(0, 1)] * 20)
    (batch,) = plan_batches(job, 100_000)
    assert [len(responses.pairs) for responses in batch.responses] == [20, 20]
