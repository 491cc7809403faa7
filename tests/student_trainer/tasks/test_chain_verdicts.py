import random

import pytest

from student_trainer.tasks.chain import ChainTaskConfig, parse_operations
from student_trainer.tiny.demonstrations import Demonstrator, DemonstratorConfig

TASK = ChainTaskConfig(operations=2).build()
PROBLEM = TASK.train_problem(0)


def verdicts(text: str) -> dict[str, list[int]]:
    tokens = text.split()
    found: dict[str, list[int]] = {}
    for token, verdict in zip(tokens, TASK.token_verdicts(PROBLEM, tokens).tolist(), strict=True):
        if verdict >= 0:
            found.setdefault(token, []).append(verdict)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 7 (1) +5 =2 . then 2 (2) *3 =6 . answer 6", {"=2": [1], "=6": [1]}),
        ("so 7 (1) +5 =3 . then 3 (2) *3 =9 . answer 9", {"=3": [0], "=9": [1]}),
        ("so 7 (1) -8 =9 . wait check =1 . answer 1", {"=9": [1], "=1": [0]}),
        ("=2 . +5 =2", {}),
        ("so 7 (1) +5 =2 . so 9 =2", {"=2": [1]}),
        (" 7  (1)  +5  =2 ", {"=2": [1]}),
    ],
)
def test_values_are_judged_by_the_operands_as_written(
    text: str, expected: dict[str, list[int]]
) -> None:
    assert verdicts(text) == expected


def test_every_value_of_a_demonstration_is_judged() -> None:
    author = Demonstrator(DemonstratorConfig(check_rate=0.5))
    solution = author.solve(PROBLEM, random.Random(0))
    judged = verdicts(solution.text())
    checks = sum(step.check is not None for step in solution.steps)
    assert sum(map(len, judged.values())) == len(parse_operations(PROBLEM.text)) + checks
