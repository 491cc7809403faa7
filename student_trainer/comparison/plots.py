"""Plots of a comparison, as SVG that stands by itself: no style sheet, script or font from outside.

Colours are Paul Tol's "muted" scheme (technical note SRON/EPS/TN/09-002), which people with any of
the common kinds of colour blindness can tell apart; lines also differ in their dashes and bear
their names at their ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from student_trainer.comparison.axes import Frame, Scale, axes, polyline, ticks
from student_trainer.comparison.figures import Mean
from student_trainer.report.formatting import number

COLOURS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#DDCC77", "#44AA99", "#AA4499"),
    *("#999933", "#555555"),
)
_DASHES = ("", "7 3", "2 2", "9 3 2 3")
_STYLE, _TASK = "#CC6677", "#332288"
_FRAME = Frame(width=720, height=360, left=56, right=150, top=34, bottom=26)
_ROW, _NAME_WIDTH, _PANEL = 34, 150, 270
_NAME_HEIGHT = 13
_CSS = (
    "text{font:12px system-ui,sans-serif;fill:#1a1d21}"
    ".title{font-weight:600;font-size:14px}.tick,.note{fill:#5b626b;font-size:11px}"
    ".grid{stroke:#e3e3de}.base{stroke:#8a9099}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}"
)


@dataclass(frozen=True, slots=True)
class Course:
    """One line of a plot over steps."""

    name: str
    points: Sequence[tuple[int, Mean]]


def line_plot(title: str, courses: Sequence[Course]) -> str:
    """Means over seeds by step, each with a band of ± 1 standard error.

    Args:
        title: what is shown, with its unit.
        courses: lines with at least one point.
    """
    edges = [edge for course in courses for _, mean in course.points for edge in _edges(mean)]
    values = ticks(min(edges), max(edges))
    last_step = max(step for course in courses for step, _ in course.points)
    scale = Scale(_FRAME, max(last_step, 1), values[0], values[-1])
    bands, lines = [], []
    for index, course in enumerate(courses):
        look = _look(index)
        ends = [(step, *_edges(mean)) for step, mean in course.points]
        around = [(step, low) for step, low, _ in ends]
        around += [(step, high) for step, _, high in reversed(ends)]
        places = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in around)
        colour = COLOURS[index % len(COLOURS)]
        bands.append(f'<polygon points="{places}" fill="{colour}" fill-opacity="0.13"/>')
        means = [(step, mean.mean) for step, mean in course.points]
        lines.append(polyline(scale, means, "line", look))
    return _svg(
        _FRAME.width,
        _FRAME.height,
        f"{title} over steps",
        f'<text class="title" x="8" y="18">{escape(title)}</text>'
        + axes(scale, values)
        + "".join(bands + lines)
        + _end_names(courses, scale),
    )


def _look(index: int) -> str:
    dashes = _DASHES[index % len(_DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f' stroke="{COLOURS[index % len(COLOURS)]}"{dashed}'


def _end_names(courses: Sequence[Course], scale: Scale) -> str:
    """Each line's name beside its end, moved apart where ends lie close."""
    ends = sorted(
        (scale.y(course.points[-1][1].mean), index) for index, course in enumerate(courses)
    )
    lowest = float(_FRAME.height - _FRAME.bottom)
    places: list[float] = []
    for rank, (y, _) in enumerate(ends):
        room = lowest - (len(ends) - 1 - rank) * _NAME_HEIGHT  # for the names below it
        above = places[-1] + _NAME_HEIGHT if places else 0.0
        places.append(max(above, min(y, room)))
    edge = _FRAME.width - _FRAME.right
    parts = []
    for (y, index), place in zip(ends, places, strict=True):
        end = scale.x(courses[index].points[-1][0])
        parts.append(
            f'<path d="M{end:.1f},{y:.1f}L{edge + 8},{place:.1f}h14" fill="none"{_look(index)}/>'
            f'<text x="{edge + 26}" y="{place + 4:.1f}">{escape(courses[index].name)}</text>'
        )
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the panels of a bar or dot plot; rows are the entries."""

    title: str
    values: Mapping[str, Mapping[str, Mean]]
    """By entry and then by series; entries and series without a figure are absent."""


def bar_plot(panels: Sequence[Panel], rows: Sequence[str]) -> str:
    """Horizontal bars for the series `style` and `task`, each panel with a scale of its own."""
    parts = []
    for place, panel in enumerate(panels):
        left = _NAME_WIDTH + place * (_PANEL + 40)
        means = [mean for of_row in panel.values.values() for mean in of_row.values()]
        top = ticks(0, max([_edges(mean)[1] for mean in means], default=1.0))[-1] or 1.0
        parts.append(f'<text class="title" x="{left}" y="18">{escape(panel.title)}</text>')
        for index, row in enumerate(rows):
            y = 34 + index * _ROW
            of_row = panel.values.get(row, {})
            if not of_row:
                parts.append(f'<text class="note" x="{left + 4}" y="{y + 18}">none</text>')
            for line, (series, colour) in enumerate((("style", _STYLE), ("task", _TASK))):
                if series in of_row:
                    bar = _bar(of_row[series], left, y + 2 + 13 * line, top, colour)
                    parts.append(bar)
    height = 34 + len(rows) * _ROW + 26
    key = "".join(
        f'<rect x="{_NAME_WIDTH + 110 * place}" y="{height - 18}" width="12" height="10" '
        f'fill="{colour}"/><text x="{_NAME_WIDTH + 18 + 110 * place}" y="{height - 9}">'
        f"{name} tokens</text>"
        for place, (name, colour) in enumerate((("style", _STYLE), ("task", _TASK)))
    )
    width = _NAME_WIDTH + len(panels) * (_PANEL + 40)
    title = "Size of the signals on style and on task tokens"
    return _svg(width, height, title, _row_names(rows) + "".join(parts) + key)


def _bar(mean: Mean, left: float, y: float, top: float, colour: str) -> str:
    room = _PANEL - 70
    length = mean.mean / top * room
    low, high = (left + edge / top * room for edge in _edges(mean))
    middle = y + 5.5
    return (
        f'<rect x="{left}" y="{y}" width="{length:.1f}" height="11" fill="{colour}"/>'
        f'<path d="M{low:.1f},{middle}H{high:.1f}" stroke="#1a1d21" stroke-width="1.5"/>'
        f'<text class="note" x="{high + 5:.1f}" y="{y + 10}">{_three_digits(mean.mean)}</text>'
    )


def dot_plot(panel: Panel, rows: Sequence[str], series: Sequence[str], reference: float) -> str:
    """Dots with ± 1 standard error on one scale, beside a line at a reference value."""
    means = [mean for of_row in panel.values.values() for mean in of_row.values()]
    edges = [edge for mean in means for edge in _edges(mean)]
    values = ticks(min([reference, *edges]), max([reference, *edges]))
    left, room = _NAME_WIDTH, 2 * _PANEL
    bottom = 34 + len(rows) * _ROW

    def x(value: float) -> float:
        return left + (value - values[0]) / (values[-1] - values[0]) * room

    parts = [f'<text class="title" x="8" y="18">{escape(panel.title)}</text>']
    for value in values:
        parts.append(
            f'<path class="grid" d="M{x(value):.1f},28V{bottom}"/><text class="tick" '
            f'x="{x(value):.1f}" y="{bottom + 14}" text-anchor="middle">{number(value)}</text>'
        )
    parts.append(f'<path class="base" stroke-dasharray="4 3" d="M{x(reference):.1f},28V{bottom}"/>')
    colours = dict(zip(series, (COLOURS[2], COLOURS[4]), strict=True))
    for index, row in enumerate(rows):
        of_row = panel.values.get(row, {})
        for line, name in enumerate(name for name in series if name in of_row):
            mean = of_row[name]
            y = 34 + index * _ROW + 10 + 12 * line
            low, high = (x(edge) for edge in _edges(mean))
            parts.append(
                f'<path d="M{low:.1f},{y}H{high:.1f}" stroke="{colours[name]}" stroke-width="2"/>'
                + _dot(x(mean.mean), y, colours[name], square=name == series[1])
            )
    for place, name in enumerate(series):
        at = left + 160 * place
        parts.append(
            _dot(at, bottom + 30, colours[name], square=place == 1)
            + f'<text x="{at + 12}" y="{bottom + 34}">{escape(name)}</text>'
        )
    width = left + room + 40
    return _svg(width, bottom + 44, panel.title, _row_names(rows) + "".join(parts))


def _dot(x: float, y: float, colour: str, *, square: bool) -> str:
    if square:
        return f'<rect x="{x - 4:.1f}" y="{y - 4}" width="8" height="8" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y}" r="4.5" fill="{colour}"/>'


def _row_names(rows: Sequence[str]) -> str:
    return "".join(
        f'<text x="8" y="{34 + index * _ROW + 18}">{escape(row)}</text>'
        for index, row in enumerate(rows)
    )


def _edges(mean: Mean) -> tuple[float, float]:
    error = mean.stderr or 0.0
    return mean.mean - error, mean.mean + error


def _three_digits(value: float) -> str:
    return f"{value:.3g}"


def _svg(width: int, height: int, title: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" role="img" aria-label="{escape(title)}"><style>{_CSS}</style>'
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>{body}</svg>\n'
    )
