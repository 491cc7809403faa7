from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.services.gateway.pages.conftest import Show
from tests.services.gateway.pages.replies import reply_of, response, words

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
DESKTOP: dict[str, Any] = {}
REPLY = reply_of(
    response(words(150), e_ctr=[None, *([0.3, -0.3] * 75)][:150]), response(["a" * 400])
)


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.mark.parametrize(
    ("scheme", "options"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)]
)
def test_axe_finds_nothing(show: Show, scheme: str, options: dict[str, Any]) -> None:
    page = show(REPLY, color_scheme=scheme, **options)
    page.locator(".histogram summary").first.click()
    assert violations(page) == []
    page.locator("[data-signal=e_ctr] .token").nth(1).focus()
    assert page.locator(".card").is_visible()
    assert violations(page) == []


def test_axe_finds_nothing_in_the_sources(show: Show) -> None:
    page = show(REPLY)
    for tab in ("#tab-score", "#tab-paste"):
        page.click(tab)
        page.locator("details:visible > summary").evaluate_all("all => all.map(s => s.click())")
        assert violations(page) == []


def test_the_docs_page_is_accessible_and_misses_no_file(
    visit: Callable[..., Page], gateway_url: str
) -> None:
    page = visit(f"{gateway_url}/docs", **PHONE)
    missing: list[str] = []
    page.on("response", lambda one: missing.append(one.url) if one.status >= 400 else None)
    page.reload(wait_until="networkidle")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert missing == []


@pytest.mark.parametrize("width", [320, 360, 768, 1024])
def test_no_width_scrolls_sideways(show: Show, width: int) -> None:
    page = show(REPLY, viewport={"width": width, "height": 740})
    for response_index in ("0", "1"):
        page.locator(".view-head select").select_option(response_index)
        page.locator("[data-signal=e_ctr] .token").first.focus()
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
        for panel in page.locator(".tokens").all():
            assert panel.evaluate("one => one.scrollWidth <= one.clientWidth")


def test_on_a_phone_a_tap_opens_the_card_at_the_bottom(show: Show) -> None:
    page = show(REPLY, **PHONE)
    page.locator("[data-signal=e_ctr] .token").nth(2).tap()
    card = page.locator(".card")
    card.wait_for(state="visible")
    box = card.bounding_box()
    assert box is not None
    assert (box["x"], round(box["width"])) == (0, 360)
    assert round(box["y"] + box["height"]) == 740
    page.locator("[data-signal=e_ctr] .token").nth(60).tap()
    token = page.locator("[data-signal=e_ctr] .token.current").bounding_box()
    box = card.bounding_box()
    assert token is not None
    assert box is not None
    assert token["y"] + token["height"] <= box["y"]
    page.locator(".view-head").tap(position={"x": 2, "y": 2})
    card.wait_for(state="hidden")
