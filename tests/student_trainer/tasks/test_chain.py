import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from student_trainer.tasks.base import Problem
from student_trainer.tasks.chain import (
    MAX_OPERATIONS,
    OPERATORS,
    ChainTaskConfig,
    apply,
    parse_operations,
)

digits = st.integers(0, 9)


def test_arithmetic_keeps_the_last_digit() -> None:
    assert apply("+", 7, 5) == 2
    assert apply("-", 1, 4) == 7
    assert apply("*", 7, 8) == 6
    with pytest.raises(ValueError, match="'/' is none of"):
        apply("/", 4, 2)


@given(
    start=digits,
    operations=st.lists(
        st.tuples(st.sampled_from(OPERATORS), digits), min_size=1, max_size=MAX_OPERATIONS
    ),
)
def test_text_is_read_back(start: int, operations: list[tuple[str, int]]) -> None:
    body = "".join(
        f" ({place}) {operator}{operand}"
        for place, (operator, operand) in enumerate(operations, start=1)
    )
    lefts = [start, *[None] * (len(operations) - 1)]
    expected = [(left, *operation) for left, operation in zip(lefts, operations, strict=True)]
    assert parse_operations(f"{start}{body} .") == expected


def test_a_known_problem() -> None:
    task = ChainTaskConfig(operations=2).build()
    problem = next(
        problem
        for problem in map(task.train_problem, itertools.count())
        if problem.text.startswith("7 (1) *8")
    )
    _, operator, operand = parse_operations(problem.text)[1]
    assert problem.answer == str(apply(operator, 6, operand))


@given(
    index=st.integers(0, 10**9),
    operations=st.integers(1, MAX_OPERATIONS),
    layout=st.sampled_from(["chain", "sheet"]),
)
def test_the_worked_solution_is_right(
    index: int, operations: int, layout: Literal["chain", "sheet"]
) -> None:
    task = ChainTaskConfig(operations=operations, layout=layout, graded="all").build()
    problem = task.train_problem(index)
    assert problem.solution is not None
    assert task.verify(problem, problem.solution).correct
    judged = task.token_verdicts(problem, problem.solution.split())
    assert (judged == 1).sum() == operations
    assert not (judged == 0).any()


@given(index=st.integers(0, 10**9), seed=st.integers(0, 5), operations=st.integers(1, 8))
def test_same_index_same_problem(index: int, seed: int, operations: int) -> None:
    config = ChainTaskConfig(operations=operations, seed=seed)
    problem = config.build().train_problem(index)
    assert problem == config.build().train_problem(index)
    assert len(parse_operations(problem.text)) == operations


def test_seeds_give_different_streams_and_one_heldout_set() -> None:
    one, other = ChainTaskConfig(seed=1).build(), ChainTaskConfig(seed=2).build()
    first = [one.train_problem(index).text for index in range(20)]
    assert first != [other.train_problem(index).text for index in range(20)]
    assert one.heldout_problems(20) == other.heldout_problems(20)


def test_training_never_meets_the_heldout_set() -> None:
    # One operation makes 300 problems only, so chance alone would mix the two sets.
    task = ChainTaskConfig(operations=1).build()
    heldout = {problem.text for problem in task.heldout_problems(20)}
    trained = {task.train_problem(index).text for index in range(3000)}
    assert len(trained) > 250
    assert not heldout & trained


def test_heldout_problems_differ_and_begin_alike() -> None:
    task = ChainTaskConfig(operations=4).build()
    problems = task.heldout_problems(500)
    assert len({problem.id for problem in problems}) == 500
    assert task.heldout_problems(10) == problems[:10]


def test_too_many_heldout_problems_are_refused() -> None:
    with pytest.raises(ValueError, match=r"301 held-out problems .* have only \d\d"):
        ChainTaskConfig(operations=1).build().heldout_problems(301)


@given(answer=digits, wrong=digits, seed=st.integers(0, 3))
def test_the_last_answer_counts(answer: int, wrong: int, seed: int) -> None:
    task = ChainTaskConfig(seed=seed).build()
    problem = task.train_problem(0)
    verdict = task.verify(problem, f"so 1 (1) +1 =2 . answer {wrong} . answer {answer}")
    assert verdict.answer == str(answer)
    assert verdict.correct == (str(answer) == problem.answer)


@pytest.mark.parametrize(
    "response", ["", "7", "answer", "answer x", "answer 12", "myanswer 7", "answer : 7"]
)
def test_no_answer_is_wrong(response: str) -> None:
    task = ChainTaskConfig().build()
    verdict = task.verify(task.train_problem(0), response)
    assert (verdict.correct, verdict.answer) == (False, None)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="operations"):
        ChainTaskConfig(operations=0)
    with pytest.raises(ValidationError, match="length"):
        ChainTaskConfig.model_validate({"kind": "chain", "length": 4})


def test_the_operations_of_a_sheet_have_left_digits_of_their_own() -> None:
    assert parse_operations("(1) 7 +5 (2) 4 *3 .") == [(7, "+", 5), (4, "*", 3)]
    text = ChainTaskConfig(operations=3, layout="sheet").build().train_problem(0).text
    assert [left is None for left, _, _ in parse_operations(text)] == [False] * 3


def test_all_results_may_be_asked_for() -> None:
    config = ChainTaskConfig(operations=2, layout="sheet", heldout_graded="all")
    task = config.build()
    strict, lenient = task.heldout_problems(1)[0], task.train_problem(0)
    for problem, first_counts in ((strict, True), (lenient, False)):
        (left, operator, right), last = parse_operations(problem.text)
        assert left is not None
        assert last[0] is not None
        result = apply(operator, left, right)

        def respond(first: int, check: str = "", problem: Problem = problem) -> bool:
            response = f"so (1) 1 +1 ={first} . {check} so (2) 1 +1 ={problem.answer} . "
            return task.verify(problem, f"{response}answer {problem.answer}").correct

        wrong = (result + 1) % 10
        assert respond(result)
        assert respond(wrong) is not first_counts
        assert respond(wrong, f"wait check ={result} .")
        assert respond(result, f"wait check ={wrong} .") is not first_counts
    assert not task.verify(strict, f"answer {strict.answer}").correct
