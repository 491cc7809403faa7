import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.processes import wait_until
from tests.services.gateway.pages.conftest import Show
from tests.services.gateway.pages.replies import reply_of, response, words

Visit = Callable[..., Page]

REPLY = reply_of(response(words(30)), response(words(20), seed=1))


def link_of(reply: dict[str, Any]) -> str:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(json.dumps(reply).encode()) + packer.flush()
    return f"#reply={base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def looks(page: Page) -> dict[str, Any]:
    """What a reader sees of a view."""
    tokens = "found => found.map(t => [t.className, getComputedStyle(t).backgroundColor, t.title])"
    return {
        "tokens": page.locator("#token-view .token").evaluate_all(tokens),
        "card": page.locator(".card").inner_text(),
        "toggles": page.locator(".controls input").evaluate_all("all => all.map(t => t.checked)"),
        "figures": page.locator(".figures").inner_text(),
    }


def test_a_link_reproduces_the_view(show: Show, visit: Visit) -> None:
    page = show(REPLY)
    page.locator(".view-head select").select_option("1")
    page.get_by_label("Log scale").check()
    page.get_by_label("Gate only").check()
    page.get_by_role("checkbox", name="other").uncheck()
    page.locator("[data-signal=e_ctr] .token").nth(7).click()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-link")
    page.locator("#link-note", has_text="Copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    page.locator("[data-signal=e_ctr] .token").nth(7).focus()
    seen = looks(page)
    again = visit(link)
    again.locator(".card").wait_for(state="visible")
    wait_until(lambda: looks(again) == seen)


def test_a_link_opened_in_the_same_page_replaces_the_view(visit: Visit, gateway_url: str) -> None:
    page = visit(f"{gateway_url}/{link_of(reply_of(response(words(11))))}")
    tokens = page.locator("[data-signal=e_c] .token")
    wait_until(lambda: tokens.count() == 11)
    page.evaluate("hash => { location.hash = hash; }", link_of(REPLY))
    wait_until(lambda: tokens.count() == 30)


@pytest.mark.parametrize("count", [2000, 6000])
def test_a_view_too_large_for_a_link_says_what_to_do(show: Show, count: int) -> None:
    page = show(reply_of(response(words(count), top_k=0)))
    page.click("#copy-link")
    page.locator("#link-note", has_text="does not fit a link").wait_for()
    assert "#" not in page.url
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "scores.json"
    page.set_input_files("#opened", download.value.path())
    expect(page.locator("#link-note")).to_be_empty()  # it is shown anew
    assert page.locator("#problems").inner_text() == ""


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("#reply=AAAA", "damaged"),
        ("#score=%%%", "damaged"),
        ("#run=none&step=1&rollout=0", "no runs"),
        (f"{link_of(REPLY)}&token=x", "token=x"),
        (f"{link_of({'responses': [{'tokens': {}}]})}", "tokens.id"),
    ],
)
def test_a_damaged_link_is_told(visit: Visit, gateway_url: str, end: str, message: str) -> None:
    page = visit(f"{gateway_url}/{end}")
    problem = page.locator("#problems .error")
    problem.wait_for()
    assert message in problem.inner_text()
