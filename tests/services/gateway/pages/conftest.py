"""A browser at a gateway."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import browser, visit
from tests.services.gateway.pages.serving import served_gateway

__all__ = ["browser", "gateway_url", "show", "visit"]

Show = Callable[..., Page]


@pytest.fixture(scope="module")
def gateway_url() -> Iterator[str]:
    """A gateway without a teacher."""
    with served_gateway() as url:
        yield url


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
