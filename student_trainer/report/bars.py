"""Horizontal bars behind numbers, as HTML."""

from collections.abc import Mapping
from html import escape


def bar(text: str, length: float, longest: float) -> str:
    """A number with a bar behind it, whose length is a share of the longest one's."""
    share = 100 * length / longest if longest else 0
    return f'<span class="bar" style="--length: {share:.1f}%">{escape(text)}</span>'


def bars(lengths: Mapping[str, tuple[float, str]]) -> str:
    """Bars under one another: name → (length, what stands in it)."""
    longest = max(length for length, _ in lengths.values())
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{bar(text, length, longest)}</dd></div>"
        for name, (length, text) in lengths.items()
    )
    return f'<dl class="bars">{rows}</dl>'
