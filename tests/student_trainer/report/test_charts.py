import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.report.charts import CHARTS, charts_html
from student_trainer.report.run_folder import RunFolder, read_run_folder


def run_with(metrics: list[dict[str, Any]]) -> RunFolder:
    return RunFolder(Path("run"), {}, metrics, [], {})


def chart_data(html: str) -> list[dict[str, Any]]:
    return [json.loads(unescape(text)) for text in re.findall(r'data-chart="([^"]*)"', html)]


def test_every_chart_of_a_whole_run_is_drawn(run_dir: Path) -> None:
    html, missing = charts_html(read_run_folder(run_dir))
    assert missing == []
    run = read_run_folder(run_dir)
    drawn = [c.title for c in CHARTS if f"<strong>{escape(c.title)}</strong>" in html]
    assert drawn == [
        c.title
        for c in CHARTS
        if any(value for line in c.lines for _, value in run.points(line.key))
    ]
    assert "Staleness" not in drawn  # nothing but zeros
    assert {"Drift", "Contrast by token class"} < set(drawn)
    sizes = chart_data(html)[drawn.index("Size of the signals")]
    assert [series["label"] for series in sizes["series"]] == ["|e_ctr|", "|e_c|"]
    assert len(sizes["series"][0]["points"]) == 60


def test_points_carry_the_values_and_stand_in_order(run_dir: Path) -> None:
    run = read_run_folder(run_dir)
    accuracy = chart_data(charts_html(run)[0])[0]["series"][0]["points"]
    for (step, value, _, _), (known_step, known) in zip(
        accuracy, run.points("eval/accuracy"), strict=True
    ):
        assert step == known_step
        assert value == pytest.approx(known, rel=1e-5)
    assert [point[2] for point in accuracy] == sorted(point[2] for point in accuracy)
    # A larger value stands higher, which in SVG is a smaller y.
    by_value = sorted(accuracy, key=lambda point: point[1])
    assert [point[3] for point in by_value] == sorted((p[3] for p in accuracy), reverse=True)


def test_charts_without_figures_are_named() -> None:
    html, missing = charts_html(run_with([{"step": 1, "rollout/reward": 0.5}]))
    assert html.count("<figure") == 1
    assert "Reward" not in missing
    assert missing == [c.title for c in CHARTS if c.always and c.title != "Reward"]


def test_a_single_point_is_a_dot() -> None:
    html, _ = charts_html(run_with([{"step": 1, "rollout/reward": 0.5}]))
    assert html.count("<circle") == 1


def test_long_lines_get_a_moving_average() -> None:
    rows = [{"step": step, "rollout/reward": step % 2} for step in range(1, 61)]
    assert charts_html(run_with(rows[:20]))[0].count("<polyline") == 1
    assert charts_html(run_with(rows))[0].count("<polyline") == 2


values = st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: float(f"{value:.6g}"))


@given(st.lists(values, min_size=1, max_size=40))
def test_whatever_the_values_the_picture_is_well_formed_and_holds_them(course: list[float]) -> None:
    rows = [{"step": step, "rollout/length": value} for step, value in enumerate(course, start=1)]
    html, _ = charts_html(run_with(rows))
    svg = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + len("</svg>")])
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    (data,) = chart_data(html)
    for _, _, x, y in data["series"][0]["points"]:
        assert 0 <= x <= width
        assert 0 <= y <= height
    ticks = [node for node in svg.iter() if node.attrib.get("class") in ("grid", "base")]
    assert 2 <= len(ticks) <= 7
