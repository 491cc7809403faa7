"""The pages of runs, in a browser, over folders as the trainer writes them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from counterhint.errors import EngineFailure
from services.queue.base import JobQueue
from services.queue.records import QueuedJob
from tests.services.gateway.pages.serving import served_gateway
from tests.services.gateway.test_run_views import ROLLOUT, write_run

EVIL = "<script>window.done = 1</script>\N{RIGHT-TO-LEFT OVERRIDE}<img src=x onerror=alert(1)>"
Visit = Callable[..., Page]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path, "maths", steps=40)
    logic = write_run(tmp_path, "logic", steps=3)
    (logic / "summary.json").write_text("{}")
    return tmp_path


@pytest.fixture
def url(runs: Path) -> Iterator[str]:
    with served_gateway(runs_dir=runs) as url:
        yield url


def append(runs: Path, file: str, **row: Any) -> None:
    with (runs / "maths" / file).open("a") as end:
        end.write(json.dumps(row) + "\n")


def tile(page: Page, name: str) -> str:
    return page.locator(".tiles > div", has=page.locator("dt", has_text=name)).inner_text()


def test_runs_are_listed_and_lead_to_their_pages(url: str, visit: Visit) -> None:
    page = visit(f"{url}/runs")
    row = page.locator("tbody tr", has_text="maths")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("39 of 80")
    expect(page.locator("tbody tr", has_text="logic")).to_contain_text("finished")
    row.locator("a").click()
    page.wait_for_url(f"{url}/runs/maths")
    expect(page.locator("#name")).to_have_text("maths")
    expect(page.locator("#state")).to_have_text("running")


def test_what_a_running_run_adds_appears(url: str, visit: Visit, runs: Path) -> None:
    page = visit(f"{url}/runs/maths")
    chart = page.locator(".chart", has_text="Reward")
    expect(chart.locator("output")).to_have_text("reward 0.39")
    assert "39 of 80" in tile(page, "Step")
    # The page looks for rollouts when there are new figures.
    append(runs, "rollouts.jsonl", **{**ROLLOUT, "step": 40, "problem": EVIL, "problem_id": EVIL})
    append(runs, "metrics.jsonl", step=40, **{"rollout/reward": 0.875, "rollout/entropy": 0.5})
    expect(chart.locator("output")).to_have_text("reward 0.875")
    expect(page.locator(".chart", has_text="Entropy")).to_be_visible()
    assert "40 of 80" in tile(page, "Step")
    # Text of problems stays text.
    first = page.locator(".group").first
    assert first.locator(".problem").inner_text() == EVIL
    assert page.evaluate("window.done") is None


def test_looks_at_a_run_do_not_overlap(url: str, visit: Visit, runs: Path) -> None:
    page = visit(f"{url}/runs/maths")
    output = page.locator(".chart", has_text="Reward").locator("output")
    expect(output).to_have_text("reward 0.39")
    held: list[Route] = []
    pattern = "**/v1/training-runs/maths?*"
    page.route(pattern, lambda route: held.append(route))
    while not held:
        page.wait_for_timeout(20)
    append(runs, "metrics.jsonl", step=40, **{"rollout/reward": 0.875})
    page.locator("#access").dispatch_event("submit")
    page.evaluate("fetch('../health')")  # what was asked for before is known by then
    assert len(held) == 1
    page.unroute(pattern)  # which lets the held one go on
    expect(output).to_have_text("reward 0.875")


def test_charts_are_read_by_pointer_and_by_keyboard(url: str, visit: Visit) -> None:
    page = visit(f"{url}/runs/maths")
    chart = page.locator(".chart", has_text="Reward")
    chart.locator("svg").hover(position={"x": 60, "y": 60})
    expect(chart.locator("output")).to_contain_text("step ")
    page.mouse.move(0, 0)
    expect(chart.locator("output")).to_have_text("reward 0.39")
    chart.focus()
    for key, shown in (
        ("ArrowLeft", "step 39"),
        ("ArrowLeft", "step 38"),
        ("ArrowRight", "step 39"),
    ):
        page.keyboard.press(key)
        expect(chart.locator("output")).to_contain_text(shown)
    page.keyboard.press("Escape")
    expect(chart.locator("output")).to_have_text("reward 0.39")


def test_a_group_s_rollouts_are_shown_with_hints_and_tokens(
    url: str, visit: Visit, runs: Path
) -> None:
    append(runs, "rollouts.jsonl", **{**ROLLOUT, "correct": True, "advantage": 0.5})
    page = visit(f"{url}/runs/maths")
    buttons = page.locator(".rollouts button")
    expect(buttons).to_have_count(2)
    expect(buttons.nth(0)).to_contain_text("✗ wrong")
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    buttons.nth(0).click()
    expect(buttons.nth(0)).to_have_attribute("aria-pressed", "true")
    page.locator("summary", has_text="Hint: wrong 2").click()
    expect(page.locator(".hints pre", has_text="it is 9")).to_be_visible()
    tokens = page.locator('[data-signal="e_ctr"] .token')
    expect(tokens).to_have_count(3)
    assert tokens.all_inner_texts() == ["so", " é", "8"]


def test_a_pause_and_dead_jobs_are_shown(runs: Path, visit: Visit) -> None:
    async def prepare(queue: JobQueue) -> None:
        run, crash = "maths-0a1b2c3d", EngineFailure("it died", reason="ENGINE_DIED")
        await queue.enqueue(QueuedJob("poison", run, 30, b"payload"))
        for _ in range(3):
            claim = await queue.claim("worker", 60.0)
            assert claim is not None
            assert await queue.fail(claim, crash, retryable=True)
        await queue.pause(run)

    with served_gateway(runs_dir=runs, prepare=prepare) as url:
        page = visit(f"{url}/runs/maths")
        expect(page.locator("#state")).to_have_text("running; its jobs are paused")
        assert "1" in tile(page, "Put aside").split()


def test_a_run_that_began_anew_replaces_the_former(
    url: str, visit: Visit, runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = visit(f"{url}/runs/maths")
    expect(page.locator(".chart", has_text="Reward").locator("output")).to_have_text("reward 0.39")
    aside = tmp_path_factory.mktemp("aside")  # so that no look finds half of a run
    anew = write_run(aside, "maths", steps=50)  # further than the page has seen
    (anew / "run.json").write_text('{"run_id": "maths-99999999"}')
    (runs / "maths").rename(aside / "former")
    anew.rename(runs / "maths")
    chart = page.locator(".chart", has_text="Reward")
    expect(chart.locator("output")).to_have_text("reward 0.49")
    chart.focus()
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
    expect(chart.locator("output")).to_have_text("step 0: reward 0")


def test_an_unknown_run_is_said_in_words(url: str, visit: Visit) -> None:
    page = visit(f"{url}/runs/nobody")
    expect(page.locator("#problems")).to_contain_text("no folder of a run 'nobody' is shown here")


def test_a_phone_s_width_is_enough(url: str, visit: Visit) -> None:
    for path in ("runs", "runs/maths"):
        page = visit(f"{url}/{path}", viewport={"width": 360, "height": 800})
        page.locator("table, .chart").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(url: str, visit: Visit, scheme: str) -> None:
    for path in ("runs", "runs/maths"):
        page = visit(f"{url}/{path}", color_scheme=scheme)
        page.locator("table, .chart").first.wait_for()
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
