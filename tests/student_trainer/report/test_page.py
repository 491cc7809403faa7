"""The report in a browser, from disk: nothing is served, and nothing may be asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from student_trainer.report import write_report
from tests.browser import browser, visit
from tests.student_trainer.report.run_folders import write_rows, write_run

__all__ = ["browser", "visit"]

EVIL = "</script><script>window.done = 1</script>\N{RIGHT-TO-LEFT OVERRIDE}<img src=x onerror=done>"
Visit = Callable[..., Page]


@pytest.fixture
def report(run_dir: Path) -> str:
    return write_report([run_dir], run_dir / "report.html").as_uri()


@pytest.fixture
def both(run_dir: Path, tmp_path: Path) -> str:
    """A report of a run with signals and of one without."""
    grpo = write_run(tmp_path / "grpo")
    rows = [json.loads(line) for line in (grpo / "rollouts.jsonl").read_text().splitlines()]
    unscored = {"correct_hint", "wrong_hints", "e_c", "e_ctr", "modulated", "selected"}
    write_rows(
        grpo / "rollouts.jsonl",
        [{key: value for key, value in row.items() if key not in unscored} for row in rows],
    )
    return write_report([grpo, run_dir], tmp_path / "both.html").as_uri()


def rows_of(run_dir: Path, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / file).read_text().splitlines()]


def chart(page: Page, title: str) -> Any:
    return page.locator(".chart", has=page.locator("strong", has_text=title))


def test_a_run_s_charts_and_tiles_are_drawn(report: str, visit: Visit, run_dir: Path) -> None:
    page = visit(report)
    reward = chart(page, "Reward")
    last = rows_of(run_dir, "metrics.jsonl")[-1]["rollout/reward"]
    expect(reward.locator("output")).to_have_text(f"reward {last:.4g}")
    expect(reward.locator("polyline")).to_have_count(2)  # the line and its moving average
    expect(chart(page, "Held-out accuracy").locator("circle")).to_have_count(7)
    expect(chart(page, "Size of the signals").locator(".key")).to_have_text(["|e_ctr|", "|e_c|"])
    expect(page.locator(".tiles dt").first).to_have_text("Step")
    expect(page.locator("#drawn")).to_have_count(0)
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


def test_a_run_s_tokens_are_coloured_by_their_signal(
    report: str, visit: Visit, run_dir: Path
) -> None:
    page = visit(report)
    picked = int(page.locator(".rollouts [aria-pressed=true]").get_attribute("data-rollout") or "")
    row = rows_of(run_dir, "rollouts.jsonl")[picked]
    tokens = page.locator("[data-signal=e_ctr] .token")
    assert tokens.all_inner_texts() == row["tokens"]
    kinds = tokens.evaluate_all("all => all.map(one => one.classList.contains('positive'))")
    assert kinds == [value > 0 for value in row["e_ctr"]]
    colours = tokens.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(colours)) > 5
    page.locator(".rollouts button[aria-pressed=false]").first.click()
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card")).to_contain_text("token 2 of")


def test_groups_follow_the_choice_in_the_token_view(visit: Visit, run_dir: Path) -> None:
    rows = rows_of(run_dir, "rollouts.jsonl")
    rows[3]["hint_texts"] = {"correct": "the hint of the fourth", "wrong": ["a wrong one"]}
    rows[3]["wrong_hints"] = rows[3]["wrong_hints"][:1]
    write_rows(run_dir / "rollouts.jsonl", rows)
    page = visit(write_report([run_dir], run_dir / "report.html").as_uri())
    page.locator(".view-head select").select_option("3")
    expect(page.locator(".rollouts [aria-pressed=true]")).to_have_attribute("data-rollout", "3")
    hint = page.locator(".hints details", has_text="Hint: correct")
    hint.locator("summary").click()
    expect(hint).to_contain_text("the hint of the fourth")
    expect(page.locator(".view-head")).to_contain_text("correct, wrong 1")
    expect(page.locator(".view-head")).not_to_contain_text("wrong 2")
    page.locator("[data-signal=e_ctr] .token").first.focus()
    expect(hint.locator("pre")).to_be_visible()  # it stays open while tokens are looked at


def test_two_runs_are_drawn_over_one_another(both: str, visit: Visit) -> None:
    page = visit(both)
    reward = chart(page, "Reward")
    expect(reward.locator(".key")).to_have_text(["grpo", "demo"])
    expect(reward.locator("output")).to_contain_text("demo 0.")
    colours = reward.locator(".key").evaluate_all(
        "all => all.map(one => getComputedStyle(one).color)"
    )
    assert len(set(colours)) == 2
    # The colours are those of the runs' names, and stay when a run is left out.
    names = page.locator(".outcomes .key").evaluate_all(
        "all => all.map(one => getComputedStyle(one).color)"
    )
    assert names == colours
    page.locator("#drawn").get_by_label("grpo").uncheck()
    expect(reward.locator("output")).to_contain_text("demo 0.")
    expect(reward.locator("polyline.s0")).to_have_count(0)
    expect(reward.locator("polyline.s1")).to_have_count(2)


def test_the_rollouts_of_each_run_can_be_chosen(both: str, visit: Visit) -> None:
    page = visit(both)
    choice = page.locator(".run-choice select")
    expect(choice).to_have_value("1")  # the run whose rollouts have signals
    expect(page.locator(".token.positive").first).to_be_visible()
    choice.select_option("grpo")
    expect(page.locator(".token:visible").first).to_be_visible()
    expect(page.locator(".token.positive:visible")).to_have_count(0)
    expect(page.locator(".remark", has_text="grpo: Its rollouts carry no")).to_be_visible()
    expect(page.locator(".notice:visible")).to_contain_text("without the teacher's scores")


def test_more_runs_than_colours_are_drawn_when_they_are_chosen(
    tmp_path: Path, visit: Visit
) -> None:
    runs = [write_run(tmp_path / f"run-{place}") for place in range(7)]
    page = visit(write_report(runs, tmp_path / "all.html").as_uri())
    reward = chart(page, "Reward")
    expect(reward.locator(".key")).to_have_count(6)
    page.locator("#drawn").get_by_label("run-0").uncheck()
    page.locator("#drawn").get_by_label("run-6").check()
    expect(reward.locator(".key").last).to_have_text("run-6")
    expect(reward.locator(".key")).to_have_count(6)


def test_text_of_a_run_stays_text(run_dir: Path, visit: Visit) -> None:
    evil = [
        {**row, "problem": EVIL, "problem_id": EVIL, "tokens": [EVIL, *row["tokens"][1:]]}
        for row in rows_of(run_dir, "rollouts.jsonl")
    ]
    write_rows(run_dir / "rollouts.jsonl", evil)
    folder = run_dir.rename(run_dir.with_name("<img src=x onerror=done>"))
    page = visit(write_report([folder], folder / "report.html").as_uri())
    assert page.locator(".problem").first.inner_text() == EVIL
    # What reverses the direction is shown by its code point.
    expect(page.locator("[data-signal=e_ctr] .token").first).to_contain_text("[U+202E]<img src=x")
    expect(page.locator("img")).to_have_count(0)
    assert page.evaluate("window.done") is None


def test_a_long_rollout_fits(run_dir: Path, visit: Visit) -> None:
    row = rows_of(run_dir, "rollouts.jsonl")[0]
    times = 16_000 // len(row["tokens"])
    columns = ("tokens", "token_ids", "token_classes", "student", "correct_hint", "e_c", "e_ctr")
    long = row | {key: row[key] * times for key in (*columns, "selected", "modulated")}
    long["wrong_hints"] = [branch * times for branch in row["wrong_hints"]]
    write_rows(run_dir / "rollouts.jsonl", [long])
    file = write_report([run_dir], run_dir / "report.html")
    assert file.stat().st_size < 4_000_000
    page = visit(file.as_uri())
    panel = page.locator("[data-signal=e_c]")
    expect(panel.locator(".token").first).to_be_visible()
    assert panel.evaluate("one => one.textContent") == "".join(long["tokens"])


def test_a_phone_s_width_is_enough(both: str, report: str, visit: Visit) -> None:
    for url in (report, both):
        page = visit(url, viewport={"width": 360, "height": 740})
        page.locator(".token").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        # Below a long list of groups, the tokens of a rollout that was picked would not be seen.
        page.locator(".rollouts button").first.click()
        expect(page.locator(".view-head")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(both: str, report: str, visit: Visit, scheme: str) -> None:
    for url in (report, both):
        page = visit(url, color_scheme=scheme)
        page.locator("details > summary").evaluate_all("all => all.map(one => one.click())")
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
