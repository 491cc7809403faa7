import random

import pytest

from counterhint.hints import load_template
from student_trainer.tasks.base import Problem
from student_trainer.tasks.chain import ChainTaskConfig, apply, parse_operations
from student_trainer.tiny.demonstrations import (
    Demonstration,
    Demonstrator,
    DemonstratorConfig,
    LessonConfig,
    Role,
    demonstrations,
)
from student_trainer.tiny.tokenizer import HINTED_FILLERS, PLAIN_FILLERS, build_tokenizer

TASK = ChainTaskConfig(operations=4).build()
KNOWS_ALL = Demonstrator(DemonstratorConfig(misconception_share=0, fact_accuracy=1))
STUDENT = Demonstrator(DemonstratorConfig())


def write(count: int, *, author: Demonstrator = STUDENT, seed: int = 0) -> list[Demonstration]:
    lesson = LessonConfig(examples=count, hinted_share=0.5)
    return demonstrations(author, STUDENT, TASK, lesson, seed=seed)


def pass_rate(author: Demonstrator, count: int = 600) -> float:
    problems = [TASK.train_problem(index) for index in range(count)]
    return sum(
        TASK.verify(problem, author.solve(problem, random.Random(index)).text()).correct
        for index, problem in enumerate(problems)
    ) / len(problems)


def test_a_known_solution() -> None:
    plain = DemonstratorConfig(misconception_share=0, fact_accuracy=1, check_rate=0, filler_habit=1)
    problem = Problem("two", "7 (1) +5 (2) *3 .", "6")
    words = Demonstrator(plain).solve(problem, random.Random(0)).text().split()
    fillers = [words.pop(6), words.pop(0)]
    assert " ".join(words) == "7 (1) +5 =2 . 2 (2) *3 =6 . answer 6"
    assert set(fillers) <= set(PLAIN_FILLERS)


def test_an_author_who_knows_all_is_always_right() -> None:
    assert pass_rate(KNOWS_ALL) == 1


def test_the_students_author_is_right_about_half_the_time() -> None:
    assert 0.35 < pass_rate(STUDENT) < 0.65


def test_misconceptions_are_the_same_wrong_value_every_time() -> None:
    config = DemonstratorConfig(
        misconception_share=1, misconception_accuracy=0, misconception_fixed=1, check_rate=0
    )
    problem = Problem("one", "7 (1) +5 .", "2")
    author = Demonstrator(config)
    answers = {author.solve(problem, random.Random(seed)).answer for seed in range(30)}
    assert len(answers) == 1
    assert answers != {2}


def test_same_seed_same_demonstrations() -> None:
    assert write(50) == write(50)
    assert write(50) != write(50, seed=1)


def test_every_word_is_in_the_vocabulary() -> None:
    vocabulary = build_tokenizer().get_vocab()
    template = load_template("recipes/tiny/hint.txt")
    for example in write(300):
        words = {word for word, _ in example.solution.tokens()}
        hint = "" if example.hint is None else example.hint.text()
        prompt = template.render(
            problem=example.problem.text, hint=hint, answer="", answer_format=""
        )
        assert words | set(prompt.split()) <= set(vocabulary)


def test_demonstrations_stay_out_of_the_heldout_set() -> None:
    heldout = {
        problem.text
        for operations in range(2, 7)
        for problem in ChainTaskConfig(operations=operations).build().heldout_problems(500)
    }
    assert not heldout & {example.problem.text for example in write(500)}


def test_every_step_follows_from_the_one_before() -> None:
    for example in write(300):
        operations = parse_operations(example.problem.text)
        steps = example.solution.steps
        assert [(step.operator, step.operand) for step in steps] == [one[1:] for one in operations]
        start = operations[0][0]
        assert [step.left for step in steps] == [start, *(step.result for step in steps[:-1])]
        answer = str(steps[-1].result)
        assert TASK.verify(example.problem, example.solution.text()).answer == answer


def test_some_steps_of_a_hint_are_garbled() -> None:
    hints = [one.hint for one in write(1000) if one.hint is not None]
    garbled = [step.forced for hint in hints for step in hint.steps]
    assert 430 < len(hints) < 570
    assert 0.35 < sum(garbled) / len(garbled) < 0.45


def test_a_hint_is_followed_only_where_operands_agree() -> None:
    trusting = Demonstrator(
        DemonstratorConfig(misconception_share=0, fact_accuracy=1, hint_trust=1)
    )
    left_the_path = 0
    for example in write(500, author=trusting):
        if example.hint is None:
            continue
        for step, hinted in zip(example.solution.steps, example.hint.steps, strict=True):
            if step.forced:
                assert step.value != hinted.value
            elif step.left == hinted.left:
                assert step.value == hinted.result
            else:
                left_the_path += 1
                assert step.value == apply(step.operator, step.left, step.operand)
    assert left_the_path > 50


def test_forced_values_and_only_they_are_not_learnt() -> None:
    for example in write(300):
        forced = [step for step in example.solution.steps if step.forced]
        checks = sum(step.check is not None for step in example.solution.steps)
        roles = [role for _, role in example.solution.tokens()]
        assert roles.count(Role.FORCED) == len(forced) <= (example.hint is not None)
        # Each step has a digit, an operation and a value to get right.
        right = 3 * len(example.solution.steps) - len(forced) + checks + 1
        assert roles.count(Role.WORKING) == right


def test_chains_are_shorter_and_longer_than_the_tasks() -> None:
    lengths = {len(example.solution.steps) for example in write(200)}
    assert lengths == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("hinted", [False, True])
def test_hinted_writing_has_another_style(hinted: bool) -> None:
    steps = [
        step
        for example in write(600)
        if (example.hint is not None) == hinted
        for step in example.solution.steps
    ]
    usual = HINTED_FILLERS if hinted else PLAIN_FILLERS
    share = sum(step.filler in usual for step in steps) / len(steps)
    config = STUDENT.config
    assert abs(share - config.filler_habit) < 0.05
    checks = sum(step.check is not None for step in steps) / len(steps)
    assert abs(checks - (config.hinted_check_rate if hinted else config.check_rate)) < 0.03


def test_lessons_may_have_chains_of_their_own_length() -> None:
    lesson = LessonConfig(examples=50, operations=6, length_spread=1)
    written = demonstrations(STUDENT, STUDENT, TASK, lesson, seed=0)
    assert {len(example.solution.steps) for example in written} == {5, 6, 7}


def test_on_a_sheet_every_step_has_the_left_digit_of_the_problem() -> None:
    task = ChainTaskConfig(operations=4, layout="sheet").build()
    lesson = LessonConfig(examples=100, hinted_share=0.5)
    for example in demonstrations(STUDENT, STUDENT, task, lesson, seed=0):
        operations = parse_operations(example.problem.text)
        assert [step.left for step in example.solution.steps] == [one[0] for one in operations]
        words = example.solution.text().split()
        assert words[1:4] == example.problem.text.split()[:3]
