import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.errors import InputError
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.losses import TeacherNeeds
from tests.student_trainer.rollouts_of import NEEDS, make_group


@given(verdicts=st.text("rwn", min_size=2, max_size=9), seed=st.integers(0, 99))
def test_a_rollout_is_never_its_own_hint(verdicts: str, seed: int) -> None:
    group = make_group(verdicts)
    chosen = choose_hints(group, HintConfig(), NEEDS, random.Random(seed))
    for rollout, hints in zip(group.rollouts, chosen, strict=True):
        if hints is not None:
            assert rollout.text not in [hint.text for hint in (hints.correct, *hints.wrong)]


@given(verdicts=st.text("rwn", min_size=2, max_size=9), limit=st.integers(1, 5))
def test_hints_are_there_exactly_when_both_sides_are(verdicts: str, limit: int) -> None:
    group = make_group(verdicts)
    by_text = {rollout.text: rollout.verdict for rollout in group.rollouts}
    chosen = choose_hints(group, HintConfig(max_wrong=limit), NEEDS, random.Random(0))
    for index, hints in enumerate(chosen):
        others = verdicts[:index] + verdicts[index + 1 :]
        assert (hints is not None) == ("r" in others and "w" in others)
        if hints is not None:
            assert by_text[hints.correct.text].correct
            assert len(hints.wrong) == len({h.text for h in hints.wrong})
            assert len(hints.wrong) == min(limit, others.count("w"))
            assert all(
                not by_text[hint.text].correct and by_text[hint.text].answer is not None
                for hint in hints.wrong
            )


def test_the_data_sets_solution_as_correct_hint() -> None:
    group = make_group("wwn", solution="one and one is 2")
    chosen = choose_hints(group, HintConfig(correct="gt_cot"), NEEDS, random.Random(0))
    assert [hints is not None and hints.correct.text for hints in chosen] == [
        "one and one is 2"
    ] * 3
    assert chosen[0] is not None
    assert chosen[0].correct.answer == "w9"


def test_a_missing_solution_is_named() -> None:
    with pytest.raises(InputError, match="problem p has no solution"):
        choose_hints(make_group("rw"), HintConfig(correct="gt_cot"), NEEDS, random.Random(0))


def test_the_choice_is_repeatable() -> None:
    group = make_group("rrwwwwww")
    first = choose_hints(group, HintConfig(), NEEDS, random.Random(3))
    assert first == choose_hints(group, HintConfig(), NEEDS, random.Random(3))
    assert first != choose_hints(group, HintConfig(), NEEDS, random.Random(4))


def test_a_sibling_with_the_same_text_is_no_hint() -> None:
    group = make_group("rrww")
    copies = tuple(dataclasses.replace(rollout) for rollout in group.rollouts)
    twin = dataclasses.replace(group, rollouts=(*group.rollouts, *copies))
    for seed in range(20):
        chosen = choose_hints(twin, HintConfig(), NEEDS, random.Random(seed))
        for rollout, hints in zip(twin.rollouts, chosen, strict=True):
            assert hints is not None
            assert rollout.text not in [hint.text for hint in (hints.correct, *hints.wrong)]


def test_rollouts_that_are_all_alike_have_no_hints() -> None:
    right = make_group("rw").rollouts[0]
    copies = tuple(dataclasses.replace(right) for _ in range(3))
    group = dataclasses.replace(make_group("rw"), rollouts=copies)
    needs = TeacherNeeds(reads="correct_hint", sampled=True)
    assert choose_hints(group, HintConfig(), needs, random.Random(0)) == (None,) * 3


def test_a_rollout_that_is_the_data_sets_solution_has_no_hint() -> None:
    group = make_group("rrw")
    problem = dataclasses.replace(group.problem, solution=group.rollouts[0].text)
    group = dataclasses.replace(group, problem=problem)
    chosen = choose_hints(group, HintConfig(correct="gt_cot"), NEEDS, random.Random(0))
    assert [hints is not None for hints in chosen] == [False, True, False]


def test_a_method_that_reads_the_correct_hint_needs_no_wrong_sibling() -> None:
    needs = TeacherNeeds(reads="correct_hint", sampled=True)
    chosen = choose_hints(make_group("rrn"), HintConfig(), needs, random.Random(0))
    assert [hints is not None and hints.wrong for hints in chosen] == [()] * 3


def test_a_method_bounds_the_wrong_hints() -> None:
    needs = TeacherNeeds(reads="both_hints", wrong_hints=1, sampled=True)
    chosen = choose_hints(make_group("rwww"), HintConfig(), needs, random.Random(0))
    assert chosen[0] is None
    assert [len(hints.wrong) for hints in chosen[1:] if hints] == [1, 1, 1]


def test_a_method_without_hints_gets_none() -> None:
    needs = TeacherNeeds(reads="problem", sampled=True)
    assert choose_hints(make_group("rrw"), HintConfig(), needs, random.Random(0)) == (None,) * 3
