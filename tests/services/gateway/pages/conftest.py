"""A browser at a gateway."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import Watch, chromium
from tests.services.gateway.pages.serving import served_gateway

Show = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def gateway_url() -> Iterator[str]:
    """A gateway without a teacher."""
    with served_gateway() as url:
        yield url


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address; at the end no page may have done what none may do."""
    watches: list[Watch] = []
    contexts = []

    def opened(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        watches.append(Watch(page, "/".join(url.split("/")[:3])))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [fault for watch in watches for fault in watch.faults] == []


@pytest.fixture
def show(visit: Callable[..., Page], gateway_url: str) -> Show:
    """The page at `/` with a pasted reply."""

    def shown(reply: dict[str, Any] | str, **options: Any) -> Page:
        page = visit(f"{gateway_url}/", **options)
        page.click("#tab-paste")
        page.fill("#pasted", reply if isinstance(reply, str) else json.dumps(reply))
        page.click("#source-paste .primary")
        page.locator("#token-view .token").first.wait_for()
        return page

    return shown
