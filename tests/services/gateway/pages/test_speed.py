"""A response of 16,000 tokens: shown within 2 s, and no task above 0.2 s while it is scrolled.

What is asserted is the CPU time of the page's main thread, task by task. By the clock the same
tasks take as long as the machine's other processes let them: a median would hide the one long task
that the bound is about, and the longest is the scheduler's. Times by the clock are printed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Page

from tests.browser import Watch
from tests.processes import wait_until
from tests.services.gateway.pages.replies import reply_of, response, words

TOKENS = 16_000
WHEEL = """async () => {
  const panel = document.querySelector(".tokens");
  for (let turn = 0; turn <= 60; turn += 1) {
    panel.scrollTop = (panel.scrollHeight * turn) / 60;
    await new Promise((done) => requestAnimationFrame(done));
  }
}"""


@dataclass
class Work:
    """Tasks of the main thread, in seconds of CPU time and of the clock, longest first."""

    cpu: list[float]
    clock: list[float]


@contextmanager
def traced(browser: Browser, page: Page) -> Iterator[Work]:
    work = Work([], [])
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
    yield work
    events: list[dict[str, Any]] = json.loads(browser.stop_tracing())["traceEvents"]
    main = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event
        for event in events
        if event["name"].endswith("RunTask")
        and (event["pid"], event.get("tid")) in main
        and "tdur" in event
    ]
    assert tasks
    work.cpu = sorted((task["tdur"] / 1e6 for task in tasks), reverse=True)
    work.clock = sorted((task["dur"] / 1e6 for task in tasks), reverse=True)


def paste(page: Page, texts: list[str]) -> None:
    page.click("#tab-paste")
    text = json.dumps(reply_of(response(texts, top_k=1)))
    page.evaluate("text => { document.getElementById('pasted').value = text; }", text)


def test_sixteen_thousand_tokens_stay_smooth(browser: Browser, gateway_url: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    watch = Watch(page, gateway_url)
    page.goto(gateway_url)
    paste(page, words(TOKENS))
    with traced(browser, page) as first:
        page.click("#source-paste .primary")
        page.locator("[data-signal=e_c] .token").first.wait_for()
        page.wait_for_timeout(300)
    with traced(browser, page) as scroll:
        page.evaluate(WHEEL)
    with traced(browser, page) as toggled:
        page.get_by_label("Log scale").check()
    with traced(browser, page) as keys:
        page.locator("[data-signal=e_ctr] .token[tabindex='0']").focus()
        for key in ("End", "ArrowUp", "ArrowUp", "Home"):
            page.keyboard.press(key)
    assert watch.faults == []
    assert page.evaluate("document.activeElement.dataset.index") == "0"
    for name, work in {"show": first, "scroll": scroll, "log": toggled, "keys": keys}.items():
        print(
            f"{name}: longest task {1000 * work.cpu[0]:.0f} ms of CPU time, "
            f"{1000 * work.clock[0]:.0f} ms by the clock; all {sum(work.cpu):.2f} s of CPU time"
        )
    assert sum(first.cpu) < 2
    assert max(scroll.cpu[0], toggled.cpu[0], keys.cpu[0]) < 0.2
    page.close()


def test_only_what_is_near_the_window_is_made_of_tokens(browser: Browser, gateway_url: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(gateway_url)
    shown = words(4000)
    paste(page, shown)
    page.click("#source-paste .primary")
    panel = page.locator("[data-signal=e_ctr]")
    panel.locator(".token").first.wait_for()
    page.evaluate(WHEEL)
    page.locator("[data-signal=e_ctr] .token[data-index='3999']").wait_for()
    wait_until(lambda: panel.locator(".token").count() < 1500)
    # Whatever is made of it, the panel holds the whole text.
    text: str = panel.evaluate("one => one.textContent")
    assert text == "".join(one.replace("\n", "↵\n") for one in shown)
    page.close()
