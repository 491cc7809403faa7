import pytest

from counterhint.errors import InputError
from student_trainer.tasks import reasoning_gym
from student_trainer.tasks.reasoning_gym import ReasoningGymTask, ReasoningGymTaskConfig
from student_trainer.verifiers.final_answer import FinalAnswer

# Two terms of one digit: 200 different problems.
SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def build(name: str, **config: object) -> ReasoningGymTask:
    return ReasoningGymTaskConfig.model_validate({"name": name, **config}).build()


@pytest.fixture(scope="module")
def small() -> ReasoningGymTask:
    return build("chain_sum", options=SMALL)


@pytest.fixture(scope="module")
def knights() -> ReasoningGymTask:
    return build("knights_knaves", options={"n_people": 3})


def test_heldout_set_of_a_small_task_is_disjoint_from_training(small: ReasoningGymTask) -> None:
    train = {small.train_problem(i).text for i in range(1500)}
    heldout = [problem.text for problem in small.heldout_problems(12)]
    assert len(train) > 150
    assert len(set(heldout)) == 12
    assert train.isdisjoint(heldout)


def test_too_many_heldout_problems_are_refused(small: ReasoningGymTask) -> None:
    with pytest.raises(ValueError, match=r"100 held-out problems.*chain_sum.*only \d\d: ask for"):
        small.heldout_problems(100)


def test_task_with_no_problem_left_to_train_on_is_refused() -> None:
    options = {**SMALL, "min_terms": 1, "max_terms": 1}  # ten different problems
    task = build("chain_sum", options=options, heldout_fraction=0.999)
    assert len(task.heldout_problems(10)) == 10
    with pytest.raises(ValueError, match="too few different problems"):
        task.train_problem(0)


def test_stream_depends_on_the_seed_and_the_heldout_set_does_not(small: ReasoningGymTask) -> None:
    other = build("chain_sum", options=SMALL, seed=1)
    first = [small.train_problem(i).text for i in range(30)]
    second = [other.train_problem(i).text for i in range(30)]
    assert first != second
    assert first[1:] != second[:-1]
    assert small.heldout_problems(10) == other.heldout_problems(10)


# These iterate over sets of strings, whose order is another one in every ordinary process.
@pytest.mark.parametrize("name", ["polynomial_multiplication", "list_functions"])
def test_problems_are_the_same_in_every_process(name: str) -> None:
    indices = [0, 3, 2000]
    task = build(name)
    problems = {index: task.train_problem(index) for index in indices}
    reasoning_gym._WORKER.close()
    assert {index: task.train_problem(index) for index in reversed(indices)} == problems


def test_varied_options_take_their_values_by_turns() -> None:
    task = build("knights_knaves", vary={"n_people": [2, 3, 4]}, heldout_fraction=0.5)
    problems = [task.train_problem(index) for index in range(6)]
    assert [problem.answer.count(" is a ") for problem in problems] == [2, 3, 4] * 2
    sums = build("chain_sum", options={"min_terms": 2}, vary={"max_terms": [2, 3]})
    for index in range(4):
        problem = sums.train_problem(index)
        assert sums.verify(problem, f"\\boxed{{{problem.answer}}}").correct
    with pytest.raises(InputError, match="no option of reasoning-gym's chain_sum"):
        build("chain_sum", vary={"terms": [1]})


def test_id_names_the_problem(small: ReasoningGymTask) -> None:
    ids: dict[str, str] = {}
    for index in range(300):
        problem = small.train_problem(index)
        assert problem.id.startswith("chain_sum:")
        assert ids.setdefault(problem.id, problem.text) == problem.text
    assert len(ids) == len(set(ids.values())) < 300


@pytest.mark.parametrize(
    ("final_answer", "wrap"),
    [
        ("boxed", "I think 1 + 1. \\boxed{%s}"),
        ("answer_tags", "7? <answer> %s </answer>"),
        ("last_number", "First 3, so it is %s."),
        ("whole_text", " %s\n"),
    ],
)
def test_final_answer_is_found_where_the_config_says(final_answer: FinalAnswer, wrap: str) -> None:
    task = build("chain_sum", final_answer=final_answer)
    problem = task.train_problem(0)
    right = task.verify(problem, wrap % problem.answer)
    assert right.correct
    assert right.answer == problem.answer
    wrong = task.verify(problem, wrap % (int(problem.answer) + 1))
    assert not wrong.correct
    assert wrong.answer == str(int(problem.answer) + 1)
    assert task.verify(problem, "").answer is None
    assert task.answer_format


def test_other_right_answers_than_the_reference_count() -> None:
    task = build("countdown")
    problem = task.train_problem(0)
    assert task.verify(problem, f"\\boxed{{{problem.answer}}}").correct
    assert task.verify(problem, f"\\boxed{{({problem.answer}) * 1}}").correct is False  # 1 is extra
    assert task.verify(problem, f"\\boxed{{0 + {problem.answer}}}").correct is False
    assert task.verify(problem, f"\\boxed{{({problem.answer})}}").correct


def test_answer_that_is_too_costly_to_score_is_wrong() -> None:
    task = build("countdown")
    problem = task.train_problem(0)
    assert not task.verify(problem, "\\boxed{9**9**9**9}").correct
    assert task.verify(problem, f"\\boxed{{{problem.answer}}}").correct


def test_answer_that_the_data_set_chokes_on_is_wrong() -> None:
    task = build("prime_factorization")  # its score_answer raises on anything but numbers
    problem = task.train_problem(0)
    verdict = task.verify(problem, "\\boxed{no idea}")
    assert not verdict.correct
    assert verdict.answer == "no idea"


def test_min_score_lets_partly_right_answers_count() -> None:
    exact, lenient = build("basic_arithmetic"), build("basic_arithmetic", min_score=0.01)
    problem = exact.train_problem(0)
    response = f"\\boxed{{{problem.answer} apples}}"
    assert not exact.verify(problem, response).correct
    assert lenient.verify(problem, response).correct


def test_knights_knaves_has_its_own_verifier(knights: ReasoningGymTask) -> None:
    for problem in [*knights.heldout_problems(20), knights.train_problem(0)]:
        statements = problem.answer.removesuffix(".").replace(", and ", ", ").split(", ")
        assert len(statements) == 3
        permuted = "\n".join(f"({i}) {s}" for i, s in enumerate(reversed(statements), start=1))
        assert knights.verify(problem, f"\\boxed{{{permuted}}}").correct
        assert knights.verify(problem, f"So in the end, {permuted}").correct
        assert not knights.verify(problem, ", ".join(statements[:2])).correct
        assert knights.verify(problem, problem.text).correct is False


def test_worked_solution_comes_along() -> None:
    assert build("gsm_symbolic").train_problem(0).solution
    assert build("chain_sum").train_problem(0).solution is None


def test_composite_task() -> None:
    datasets: list[dict[str, object]] = [
        {"name": name, "weight": 1, "config": {}} for name in ("chain_sum", "basic_arithmetic")
    ]
    task = build("composite", options={"datasets": datasets})
    for problem in task.heldout_problems(5):
        assert task.verify(problem, f"\\boxed{{{problem.answer}}}").correct


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "chain_sums"}, r"'chain_sums' is none of reasoning-gym's \d+ .* mean chain_sum"),
        ({"name": "qqqqqq"}, r"'qqqqqq' is none of reasoning-gym's \d+ tasks"),
        (
            {"name": "chain_sum", "options": {"num_terms": 2}},
            r"task\.options\.num_terms is no option.*it takes .*max_terms, min_digits, min_terms",
        ),
        ({"name": "chain_sum", "options": {"size": 2}}, r"task\.options\.size is no option"),
        (
            {"name": "chain_sum", "options": {"min_terms": 7}},
            r'chain_sum does not work with .*"min_terms": 7.*max_terms must be >= min_terms',
        ),
        ({"name": "chain_sum", "options": {"min_terms": "two"}}, r"does not work with .*two"),
        ({"name": "chain_sum", "options": {"min_terms": 2.5}}, r"does not work with .*2\.5"),
        ({"name": "composite"}, r"composite does not work with .*at least one dataset"),
        ({"name": "knights_knaves", "final_answer": "last_number"}, r"set it to boxed"),
    ],
)
def test_bad_config_is_refused_when_built(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningGymTaskConfig.model_validate(config).build()
