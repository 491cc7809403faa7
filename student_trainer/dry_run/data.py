"""Checks of the problems: readable, enough of them, gradable, and with what hints need."""

from collections.abc import Sequence
from dataclasses import dataclass

from student_trainer.dry_run.checklist import Checklist
from student_trainer.evaluation import DEFAULT_SET, open_set
from student_trainer.losses import TeacherNeeds
from student_trainer.recipe import Recipe
from student_trainer.tasks.base import Problem, Task

SAMPLED_PROBLEMS = 64
"""Training problems that are looked at."""


@dataclass(frozen=True, slots=True)
class TaskData:
    """The task and some of its problems."""

    task: Task
    """The recipe's task."""
    train: Sequence[Problem]
    """Its first training problems."""
    evaluated: dict[str, tuple[Task, Sequence[Problem]]]
    """The task and the problems of each evaluation set that could be read."""


def check_data(recipe: Recipe, checks: Checklist) -> TaskData | None:
    """Reads the training problems and every evaluation set, and grades the data's own answers.

    Returns:
        None when the task's data cannot be used.
    """
    task: Task | None = None
    train: list[Problem] = []
    with checks.checking("task"):
        task = recipe.task.build()
        train = [task.train_problem(index) for index in range(SAMPLED_PROBLEMS)]
        different = len({problem.id for problem in train})
        checks.ok("task", f"{recipe.task.kind}; {different} different of the first {len(train)}")
        _check_verifier("verifier", task, train[0], checks)
    evaluated = {}
    for name in recipe.evaluation.names:
        if task is None and name == DEFAULT_SET:
            continue
        label = f"evaluation of {name}"
        with checks.checking(label):
            set_task, problems = open_set(recipe.evaluation, name, task)
            evaluated[name] = set_task, problems
            sampling = recipe.evaluation.sampling(name)
            length = sampling.max_new_tokens or recipe.rollouts.max_new_tokens
            checks.ok(
                label,
                f"{len(problems)} problems × {sampling.samples} samples, at most {length:,} tokens "
                f"each, temperature {sampling.temperature:g}",
            )
            if name != DEFAULT_SET:
                _check_verifier(f"verifier of {name}", set_task, problems[0], checks)
    return TaskData(task, train, evaluated) if task is not None and train else None


def _check_verifier(name: str, task: Task, problem: Problem, checks: Checklist) -> None:
    """Grades the reference answer in the forms that verifiers know, and an empty response."""
    written = {
        "its worked solution": problem.solution,
        "the boxed answer": f"\\boxed{{{problem.answer}}}",
        "the tagged answer": f"<answer>{problem.answer}</answer>",
        "the answer": f"answer {problem.answer}",
    }
    accepted = [
        form for form, text in written.items() if text and task.verify(problem, text).correct
    ]
    if not accepted:
        checks.problem(
            name,
            f"finds no form of the reference answer {problem.answer!r} of problem {problem.id} "
            "right: check the data's answers and the task's verifier",
        )
    elif task.verify(problem, "").correct:
        checks.problem(name, f"finds an empty response to problem {problem.id} right")
    else:
        checks.ok(name, f"finds {accepted[0]} of problem {problem.id} right, and no answer wrong")


def check_solutions(
    recipe: Recipe, needs: TeacherNeeds, train: Sequence[Problem], checks: Checklist
) -> None:
    """Whether the data has the solutions that hints are to be taken from."""
    if needs.reads not in ("correct_hint", "both_hints"):
        checks.ok("hints", f"{recipe.method.kind} reads none")
    elif recipe.hints.correct == "self_rollout":
        checks.ok("hints", "correct ones are verified siblings; the data needs no solutions")
    else:
        without = [problem.id for problem in train if problem.solution is None]
        if without:
            checks.problem(
                "hints",
                f"hints.correct is gt_cot, but {len(without)} of {len(train)} problems have no "
                f"solution, {without[0]} first: add a `solution` to the data, or set "
                "hints.correct=self_rollout",
            )
        else:
            checks.ok("hints", f"all of {len(train)} problems have a solution")
