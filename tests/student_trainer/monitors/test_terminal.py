import io

import pytest
from rich.console import Console

from student_trainer.monitors import TerminalMonitor

ROWS: list[dict[str, float]] = [
    {"step": 0, "eval/accuracy": 0.4375},
    {
        "step": 1,
        "rollout/reward": 0.5,
        "rollout/length": 39.25,
        "rollout/entropy": 0.41,
        "hints/coverage": 0.9,
        "scoring/wait_share": 0.125,
        "time/tokens_per_second": 3210.0,
    },
    {"step": 2, "rollout/reward": 0.75, "rollout/length": 38.0, "eval/accuracy": 0.625},
]


def follow(console: Console, rows: list[dict[str, float]]) -> None:
    with TerminalMonitor(console) as monitor:
        monitor.start({"method": {"kind": "rlcsd"}}, total_steps=4)
        for row in rows:
            monitor.progress("sampling", 3, 8)
            monitor.log(row)


def plain_lines(rows: list[dict[str, float]]) -> list[str]:
    output = io.StringIO()
    follow(Console(file=output, force_terminal=False, width=40), rows)
    return output.getvalue().splitlines()


def screen(width: int, rows: list[dict[str, float]]) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, record=True)
    follow(console, rows)
    return console.export_text()


def test_without_a_terminal_each_step_is_one_plain_line() -> None:
    lines = plain_lines(ROWS)
    assert len(lines) == 1 + len(ROWS)
    assert "\x1b" not in "".join(lines)
    assert lines[0] == "rlcsd: step 0 of 4"
    assert lines[1] == "step 0/4  accuracy 43.8%"
    for part in ("step 1/4", "reward 0.5", "length 39.2", "hints 90.0%", "tokens/s 3,210", "left "):
        assert part in lines[2]


def test_the_live_view_shows_the_figures_and_their_course() -> None:
    text = screen(100, ROWS)
    for part in ("step 2 / 4", "43.8% → 62.5% (step 2)", "90.0%", "12.5%", "3,210", "▁█", "left"):
        assert part in text


def test_staleness_and_divergence_are_shown_where_there_are_any() -> None:
    row = {"step": 1.0, "drift/kl_to_start": 0.0125, "staleness/mean": 0.75}
    assert "KL 0.0125  stale 0.75" in plain_lines([row])[1]
    assert "KL to start" in screen(100, [row])
    assert "staleness" in screen(100, [row])
    still = {"step": 1.0, "staleness/mean": 0.0}
    assert plain_lines([still])[1].startswith("step 1/4  left")
    assert "staleness" not in screen(100, [still])


def test_the_live_view_fits_a_narrow_terminal() -> None:
    assert max(map(len, screen(60, ROWS).splitlines())) <= 60


def test_the_live_view_shows_the_stage_under_way() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, record=True)
    with TerminalMonitor(console) as monitor:
        monitor.start({}, total_steps=4, resumed_step=2)
        monitor.progress("scoring", 3, 8)
    text = console.export_text()
    assert "step 2 / 4" in text
    assert "scoring" in text
    assert "3 / 8" in text


@pytest.mark.parametrize("count", [1, 5, 200])
def test_sparklines_stay_narrow_however_long_the_run(count: int) -> None:
    rows = [{"step": step, "rollout/reward": float(step)} for step in range(1, count + 1)]
    blocks = [
        sum(line.count(block) for block in "▁▂▃▄▅▆▇█") for line in screen(100, rows).splitlines()
    ]
    assert max(blocks) == min(count, 20)
