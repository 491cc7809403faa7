import math
import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.services.gateway.pages.conftest import Show
from tests.services.gateway.pages.replies import reply_of, response, words

SIGNALS = ("e_ctr", "e_c")
REPLY = reply_of(response(words(120)))

Colour = tuple[float, ...]


def rgb(text: str) -> Colour:
    """Parts, 0 to 1, of `rgb(…)` or `color(srgb …)`."""
    numbers = [float(one) for one in re.findall(r"[\d.]+(?:e-?\d+)?", text)][:3]
    return tuple(one / 255 for one in numbers) if text.startswith("rgb") else tuple(numbers)


def end_colours(page: Page) -> dict[str, Colour]:
    """The colours of the style sheet by name."""
    return {
        name: rgb(
            page.evaluate(
                """name => {
                  const probe = document.createElement("i");
                  probe.style.color = `var(--${name})`;
                  document.body.append(probe);
                  const found = getComputedStyle(probe).color;
                  probe.remove();
                  return found;
                }""",
                name,
            )
        )
        for name in ("paper", "positive", "negative")
    }


def backgrounds(page: Page, signal: str, count: int) -> list[Colour]:
    tokens = page.locator(f"[data-signal={signal}] .token")
    expect(tokens).to_have_count(count)  # those behind the first block come a frame later
    texts: list[str] = tokens.evaluate_all(
        "found => found.map(one => getComputedStyle(one).backgroundColor)"
    )
    return [rgb(text) for text in texts]


def limit_of(values: list[float], log: bool) -> float:
    sizes = sorted(map(abs, values))
    return sizes[-1] if log else sizes[math.ceil(0.98 * len(sizes)) - 1]


def share_of(value: float, limit: float, log: bool) -> float:
    if log:
        return math.log1p(abs(value) / (limit / 100)) / math.log1p(100)
    return min(abs(value) / limit, 1)


def expected(value: float, limit: float, log: bool, ends: dict[str, Colour]) -> Colour:
    end = ends["positive" if value > 0 else "negative"]
    share = share_of(value, limit, log)
    return tuple(a + share * (b - a) for a, b in zip(ends["paper"], end, strict=True))


def luminance(colour: Colour) -> float:
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in colour]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("log", [False, True])
def test_colours_are_those_of_the_numbers(show: Show, scheme: str, log: bool) -> None:
    page = show(REPLY, color_scheme=scheme)
    if log:
        page.get_by_label("Log scale").check()
    ends = end_colours(page)
    for signal in SIGNALS:
        values = REPLY["responses"][0]["tokens"][signal]
        limit = limit_of(values, log)
        shown = backgrounds(page, signal, len(values))
        wanted = [expected(value, limit, log, ends) for value in values]
        np.testing.assert_allclose(shown, wanted, atol=0.003)


def test_one_scale_colours_both_signals_by_the_larger_limit(show: Show) -> None:
    page = show(REPLY)
    page.get_by_label("One scale").check()
    columns = REPLY["responses"][0]["tokens"]
    limit = max(limit_of(columns[signal], log=False) for signal in SIGNALS)
    ends = end_colours(page)
    for signal in SIGNALS:
        wanted = [expected(value, limit, False, ends) for value in columns[signal]]
        shown = backgrounds(page, signal, len(wanted))
        np.testing.assert_allclose(shown, wanted, atol=0.003)


def test_the_legend_has_the_numbers_of_the_scale(show: Show) -> None:
    page = show(REPLY)
    limit = limit_of(REPLY["responses"][0]["tokens"]["e_ctr"], log=False)
    legend = page.locator("article", has=page.locator("[data-signal=e_ctr]")).locator(".legend")
    low, half, zero, _, high = legend.locator(".ticks span").all_inner_texts()
    assert low == f"≤ −{limit:.2g}"
    assert half == f"−{limit / 2:.2g}"
    assert zero == "0"
    assert high == f"≥ +{limit:.2g}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_on_every_colour(show: Show, scheme: str) -> None:
    values = [step / 20 for step in range(-20, 21)]
    page = show(reply_of(response(["x"] * 41, e_ctr=values)), color_scheme=scheme)
    ink = luminance(
        rgb(page.locator(".token").first.evaluate("one => getComputedStyle(one).color"))
    )
    for background in backgrounds(page, "e_ctr", len(values)):
        light, dark = sorted((ink, luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_token_without_a_number_is_hatched(show: Show) -> None:
    values: list[Any] = [0.5, None, -0.5]
    reply = reply_of(response(["a", "b", "c"], e_ctr=values))
    reply["responses"][0]["missing"] = [{"context": "wrong 1", "reason": "the engine failed"}]
    page = show(reply)
    token = page.locator("[data-signal=e_ctr] .token").nth(1)
    assert "gradient" in token.evaluate("one => getComputedStyle(one).backgroundImage")
    assert token.get_attribute("aria-label") == "b, e_ctr missing"
    assert "the engine failed" in page.locator(".notices").inner_text()
    assert "no number" in page.locator(".marks").inner_text()
