import io

from rich.console import Console
from rich.table import Table

from student_trainer.evaluation import Evaluation, Evaluations, ProblemCounts, evaluations_table


def evaluations(correct: int, entropy: float | None = 8.0) -> Evaluations:
    problems = tuple(ProblemCounts(name, 4, correct, 1, 4000, entropy) for name in "ab")
    return Evaluations(
        {"heldout": Evaluation(problems), "hard": Evaluation(problems, pass_at=(1, 2))}
    )


def text_of(table: Table) -> str:
    console = Console(file=io.StringIO(), width=160)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_each_estimate_has_a_line() -> None:
    lines = text_of(evaluations_table(evaluations(2))).splitlines()
    header = "set problems estimate value 95% interval tokens truncated entropy"
    assert " ".join(lines[0].split()) == header
    assert [line.split()[:4] for line in lines[1:]] == [
        ["heldout", "2", "mean@4", "50.0%"],
        ["hard", "2", "mean@4", "50.0%"],
        ["pass@1", "50.0%", *lines[3].split()[2:4]],
        ["pass@2", "83.3%", *lines[4].split()[2:4]],
    ]
    assert lines[1].split()[-3:] == ["1,000", "25.0%", "0.00"]


def test_a_comparison_shows_sets_with_other_problems_without_a_change() -> None:
    before, after = evaluations(2), evaluations(3, None)
    others = Evaluations({**before.sets, "hard": Evaluation(before.heldout.problems[:1])})
    lines = text_of(evaluations_table(after, others)).splitlines()
    assert lines[1].split()[:5] == ["heldout", "2", "mean@4", "50.0%", "75.0%"]
    assert "+25.0" in lines[1]
    assert " ".join(lines[1].split()[-6:]) == "1,000 → 1,000 0.00 → ?"
    assert [line.split()[:3] for line in lines[2:]] == [
        ["hard", "2", "mean@4"],
        ["pass@1", "75.0%", lines[3].split()[2]],
        ["pass@2", "100.0%", lines[4].split()[2]],
    ]
    assert lines[2].split()[3] == "75.0%"
    assert lines[2].split()[-2:] == ["1,000", "?"]
    assert not any(sign in line for line in lines[2:] for sign in "+→…")


def test_a_comparison_fits_a_terminal_of_100_columns() -> None:
    lines = text_of(evaluations_table(evaluations(3), evaluations(2))).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
