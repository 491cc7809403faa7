from pathlib import Path
from typing import Any

from student_trainer.report.evaluations import evaluations_html
from student_trainer.report.run_folder import RunFolder


def run_with(metrics: list[dict[str, Any]], **summary: Any) -> RunFolder:
    recipe = {"evaluation": {"confidence": 0.9}}
    return RunFolder(Path("run"), recipe, metrics, [], summary)


def row(step: int, accuracy: float, **others: float) -> dict[str, Any]:
    return {"step": step, "eval/accuracy": accuracy, "eval/ci_low": 0.4, "eval/ci_high": 0.8} | {
        f"eval/{key}": value for key, value in others.items()
    }


def test_one_estimate_needs_no_table() -> None:
    assert evaluations_html(run_with([row(0, 0.5), row(8, 0.6)])) == ""
    assert evaluations_html(run_with([{"step": 1}])) == ""


def test_sets_and_pass_at_k_stand_in_order_with_their_change() -> None:
    changes = {"heldout": {"accuracy": {"value": 0.1, "stderr": 0.05, "low": -0.02, "high": 0.2}}}
    sets = {"pass@8": 0.7, "pass@16": 0.75, "a<b/accuracy": 0.25, "a<b/ci_low": 0.2}
    html = evaluations_html(run_with([row(0, 0.5, **sets), row(8, 0.6, **sets)], changes=changes))
    rows = html.split("<tbody>")[1].split("</tr>")[:-1]
    cells = [[cell.split("<")[0] for cell in line.split("<td>")[1:]] for line in rows]
    assert cells[0] == ["accuracy", "50.0%", "60.0%", "40.0% to 80.0%", "+10.0%", "−2.0% to +20.0%"]
    assert [line[0] for line in cells] == ["accuracy", "pass@8", "pass@16", "accuracy"]
    assert "a&lt;b" in rows[3]
    assert cells[3] == ["accuracy", "25.0%", "25.0%", "–", "–", "–"]
    assert "90% interval" in html


def test_a_single_evaluation_has_no_latest() -> None:
    html = evaluations_html(run_with([row(0, 0.5, **{"pass@8": 0.75})]))
    assert "<td>75.0%</td><td>–</td>" in html
