import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.metrics import auc

labelled = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


@given(labelled)
def test_it_is_the_share_of_pairs_in_order_with_ties_half(pairs: list[tuple[int, bool]]) -> None:
    right = [score for score, label in pairs if label]
    wrong = [score for score, label in pairs if not label]
    expected = np.mean([(r > w) + 0.5 * (r == w) for r in right for w in wrong])
    scores, labels = zip(*pairs, strict=True)
    assert auc(np.array(scores, float), np.array(labels)) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[True, True], [False, False], []])
def test_one_label_alone_has_none(labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="both labels"):
        auc(np.zeros(len(labels)), np.array(labels, bool))
