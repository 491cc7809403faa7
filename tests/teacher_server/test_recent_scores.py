import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from counterhint.jobs import Scores
from teacher_server.recent_scores import RecentScores, entry_bytes


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 500)), min_size=8, max_size=60
    ),
    st.integers(1, 9000),
)
def test_the_bound_holds_and_the_least_recently_used_go_first(
    steps: list[tuple[int, bool, int]], max_bytes: int
):
    recent = RecentScores(max_bytes)
    order: list[tuple[bytes, Scores]] = []  # the least recently used first
    for number, asks, length in steps:
        key = bytes([number])
        there = [entry for entry in order if entry[0] == key]
        if asks:
            assert recent.get(key) is (there[0][1] if there else None)
        else:
            scores = Scores(sampled=np.zeros(length, np.float32))
            recent.put(key, scores)
            order = [entry for entry in order if entry[0] != key]
            there = [(key, scores)] if entry_bytes(scores) <= max_bytes else []
            total = sum(entry_bytes(held) for _, held in order + there)
            while total > max_bytes:
                total -= entry_bytes(order.pop(0)[1])
        order = [entry for entry in order if entry[0] != key] + there
        assert recent.bytes == sum(entry_bytes(held) for _, held in order) <= max_bytes
        assert list(recent) == [key for key, _ in order]
