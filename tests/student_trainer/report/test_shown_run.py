import json
import math
from pathlib import Path
from typing import Any

import pytest

from counterhint.errors import InputError
from student_trainer.report import shown_run
from student_trainer.report.run_folder import RunFolder, read_run_folder
from student_trainer.report.shown_run import (
    ShownRun,
    choose_rollouts,
    choose_steps,
    read_shown_runs,
    run_names,
)
from tests.student_trainer.report.run_folders import write_run


def small_rollout(**changes: Any) -> dict[str, Any]:
    return {
        "step": 1,
        "correct": True,
        "tokens": ["so", " 7", "."],
        "token_ids": [1, 2, 3],
        "token_classes": ["style", "task", "other"],
        "student": [-1.0, -2.0, -3.0],
        "correct_hint": [-3.0, -1.0, -2.5],
        "wrong_hints": [[-3.1, -0.5, -2.5]],
        "e_ctr": [0.1, -0.5, None],
        "e_c": [-2.0, 1.0, 0.5],
    } | changes


def run_of(*rollouts: dict[str, Any]) -> ShownRun:
    steps: list[dict[str, Any]] = [{"step": 1, "rollout/reward": 0.123456789}]
    run = RunFolder(Path("run"), {"steps": 9}, steps, list(rollouts), {})
    return ShownRun("run", run, steps, list(rollouts))


def test_the_data_are_the_columns_of_the_metrics_and_a_reply_of_the_rollouts(run_dir: Path) -> None:
    (shown,) = read_shown_runs([run_dir])
    data = shown.data()
    run = read_run_folder(run_dir)
    assert (data["name"], data["method"], data["step"]) == ("demo", "rlcsd", 60)
    assert {len(values) for values in data["figures"].values()} == {61}
    assert data["figures"]["eval/accuracy"][1] is None
    assert data["figures"]["rollout/reward"][7] == pytest.approx(
        run.metrics[7]["rollout/reward"], rel=1e-4
    )
    assert [context["name"] for context in data["rollouts"]["contexts"]] == [
        *("correct", "wrong 1", "wrong 2", "wrong 3")
    ]
    for response, row in zip(data["rollouts"]["responses"], run.rollouts, strict=True):
        assert response["text"] == "".join(row["tokens"])
        assert response["tokens"]["id"] == row["token_ids"]
        assert response["tokens"]["selected"] == row["selected"]
        assert response["tokens"]["e_ctr"] == pytest.approx(row["e_ctr"], rel=1e-4)
        assert response["hints"]["wrong 2"] == row["hint_texts"]["wrong"][1]


def test_missing_values_stay_missing() -> None:
    data = run_of(small_rollout(e_ctr=[math.nan, math.inf, -0.12345678])).data()
    (response,) = data["rollouts"]["responses"]
    assert response["tokens"]["e_ctr"] == [None, None, -0.12346]
    assert response["tokens"]["selected"] is None
    assert response["hints"] == {}
    json.dumps(data, allow_nan=False)


def test_values_are_kept_to_five_digits() -> None:
    data = run_of(small_rollout(e_c=[-1.2345678, 0.000123456, -0.0])).data()
    assert data["rollouts"]["responses"][0]["tokens"]["e_c"] == [-1.2346, 0.00012346, 0.0]
    assert data["figures"]["rollout/reward"] == [0.12346]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"e_c": [0.1, 0.2]}, "step 1: 2 values of e_c for 3 tokens"),
        ({"wrong_hints": [[0.1] * 3, [0.1]]}, r"1 values of wrong_hints\[1\] for 3 tokens"),
        ({"token_ids": None}, "no lists `tokens` and `token_ids`"),
    ],
)
def test_damaged_rollouts_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run_of(small_rollout(**changes)).data()


def test_too_many_rollouts_are_thinned_out_evenly() -> None:
    rows = [small_rollout(step=step) for step in range(1, 101)]
    assert choose_rollouts(rows, 300) == rows
    assert [row["step"] for row in choose_rollouts(rows, 30)] == list(range(1, 101, 10))
    assert len(choose_rollouts(rows, 1)) == 1  # one is shown however long it is


def test_too_many_steps_are_thinned_out_around_the_evaluations() -> None:
    rows: list[dict[str, Any]] = [{"step": step} for step in range(1000)]
    rows[503]["eval/accuracy"] = 0.5
    assert choose_steps(rows, 1000) == rows
    steps = [row["step"] for row in choose_steps(rows, 10)]
    assert steps == [0, 1, 100, 200, 300, 400, 500, 503, 600, 700, 800, 900, 999]


def test_runs_share_the_room_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    monkeypatch.setattr(shown_run, "MAX_TOKENS", 800)
    monkeypatch.setattr(shown_run, "MAX_STEPS", 60)
    for shown in read_shown_runs(folders):
        assert 0 < sum(len(row["tokens"]) for row in shown.rollouts) <= 400
        steps, rollouts = shown.left_out
        assert f"{len(shown.steps)} of the 61 steps are drawn" in steps
        assert f"{len(shown.rollouts)} of the 24 rollouts kept are shown" in rollouts


def test_names_tell_the_runs_apart() -> None:
    assert run_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert run_names([Path("/x/a/run"), Path("/x/b/run"), Path("/x/b/c")]) == [
        *("a/run", "b/run", "b/c")
    ]
    with pytest.raises(InputError, match="/x/a is given twice"):
        run_names([Path("/x/a"), Path("/x/b/../a")])
