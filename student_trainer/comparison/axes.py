"""What line charts are made of: a frame, axes with round numbers, lines. SVG as text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from student_trainer.report.formatting import number

_WINDOW_SHARE = 12
"""A moving average takes in 1/12 of a line's points."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The picture's size and the margins around its lines, in pixels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Scale:
    """From steps and values to places in the picture."""

    frame: Frame
    last_step: int
    """At the right margin; step 0 is at the left one."""
    low: float
    """Value at the bottom margin."""
    high: float
    """Value at the top margin."""

    def x(self, step: float) -> float:
        """Pixels from the left."""
        frame = self.frame
        return frame.left + step / self.last_step * (frame.width - frame.left - frame.right)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        frame = self.frame
        share = (value - self.low) / (self.high - self.low)
        return frame.height - frame.bottom - share * (frame.height - frame.top - frame.bottom)


def axes(scale: Scale, values: Sequence[float]) -> str:
    """Grid lines at these values and numbers at both axes."""
    frame = scale.frame
    parts = []
    for tick in values:
        y = scale.y(tick)
        kind = "base" if tick == values[0] else "grid"
        parts.append(
            f'<line class="{kind}" x1="{frame.left}" x2="{frame.width - frame.right}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{frame.left - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{number(tick)}</text>"
        )
    steps = ticks(0, scale.last_step)
    for step in (step for step in steps if step <= scale.last_step and step == int(step)):
        anchor = "start" if step == 0 else "middle" if step < 0.97 * scale.last_step else "end"
        parts.append(
            f'<text class="tick" x="{scale.x(step):.1f}" y="{frame.height - 8}" '
            f'text-anchor="{anchor}">{"step " if step == 0 else ""}{number(step)}</text>'
        )
    return "".join(parts)


def polyline(
    scale: Scale, points: Sequence[tuple[int, float]], kind: str, attributes: str = ""
) -> str:
    """A line through (step, value) points; `kind` is its CSS class."""
    places = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in points)
    return f'<polyline class="{kind}" points="{places}"{attributes}/>'


def moving_average(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Centred; at the ends over what there is."""
    reach = len(points) // _WINDOW_SHARE // 2 + 1
    averaged = []
    for place, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, place - reach) : place + reach + 1]]
        averaged.append((step, sum(window) / len(window)))
    return averaged


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose the range."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - max(abs(low) * 0.1, 0.5) * (low != 0), high + max(abs(high) * 0.1, 0.5)
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    spacing = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [float(f"{index * spacing:.10g}") for index in range(first, last + 1)]
