"""Small line charts as SVG, drawn without a library; the page's script adds the values on hover."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from student_trainer.report.formatting import number
from student_trainer.report.run_folder import RunFolder

_WIDTH, _HEIGHT = 340, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
_SMOOTHED_FROM = 30
"""Points from which on a line gets a moving average drawn over it."""
_WINDOW_SHARE = 12
"""The moving average takes in 1/12 of the line's points."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart."""

    key: str
    """Metric in `metrics.jsonl`."""
    label: str
    stderr_key: str = ""
    """Metric with the standard error; such a series is drawn as points with error bars."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One small chart."""

    title: str
    note: str
    """What it shows and what to look for, in a few words."""
    lines: tuple[Line, ...]
    from_zero: bool = True
    """Whether the vertical axis begins at 0; else it spans the values."""
    always: bool = False
    """Whether every run has it, so that it is worth a word when it is absent. The others are left
    out where a run has no figures for them, or nothing but zeros."""


CHARTS = (
    Chart(
        "Held-out accuracy",
        "mean over sampled answers, ± 1 standard error",
        (Line("eval/accuracy", "accuracy", "eval/stderr"),),
        from_zero=False,
        always=True,
    ),
    Chart(
        "Reward",
        "share of sampled rollouts that are right",
        (Line("rollout/reward", "reward"),),
        always=True,
    ),
    Chart(
        "Mixed groups",
        "share of groups with right and wrong rollouts",
        (Line("rollout/mixed_groups", "mixed groups"),),
        always=True,
    ),
    Chart(
        "Response length",
        "tokens per rollout",
        (Line("rollout/length", "tokens"),),
        from_zero=False,
        always=True,
    ),
    Chart(
        "Length by outcome",
        "tokens per rollout",
        (Line("rollout/length_right", "right"), Line("rollout/length_wrong", "wrong")),
        from_zero=False,
    ),
    Chart(
        "Truncated",
        "share of rollouts that ran into the length limit",
        (Line("rollout/truncated_share", "truncated"),),
    ),
    Chart("Entropy", "nats per token", (Line("rollout/entropy", "nats"),), always=True),
    Chart(
        "Drift",
        "length and entropy as multiples of the first step’s",
        (Line("drift/length", "length"), Line("drift/entropy", "entropy")),
        from_zero=False,
    ),
    Chart(
        "KL to the start",
        "nats per token from the weights that the run began with",
        (Line("drift/kl_to_start", "nats"),),
    ),
    Chart("Gradient norm", "before clipping", (Line("optim/grad_norm", "norm"),), always=True),
    Chart(
        "Clipped tokens",
        "share whose ratio left the clip range",
        (Line("optim/clip_fraction", "clipped"),),
    ),
    Chart(
        "Hint coverage",
        "share of rollouts with a legal hint on both sides",
        (Line("hints/coverage", "coverage"),),
    ),
    Chart(
        "Selected tokens",
        "share whose advantage the signal modulates",
        (Line("signal/selected_share", "selected"),),
    ),
    Chart(
        "Size of the signals",
        "mean per token: contrast and one-sided",
        (Line("signal/contrast_abs", "|e_ctr|"), Line("signal/one_sided_abs", "|e_c|")),
    ),
    Chart(
        "Contrast by token class",
        "mean |e_ctr| per token",
        (Line("signal/contrast_abs/task", "task"), Line("signal/contrast_abs/style", "style")),
    ),
    Chart(
        "One-sided by token class",
        "mean |e_c| per token",
        (Line("signal/one_sided_abs/task", "task"), Line("signal/one_sided_abs/style", "style")),
    ),
    Chart(
        "Style’s share of the signals",
        "of the sum over all tokens",
        (
            Line("signal/contrast_share/style", "|e_ctr|"),
            Line("signal/one_sided_share/style", "|e_c|"),
        ),
    ),
    Chart(
        "Right from wrong",
        "AUC of the signals on values of steps; 0.5 is chance",
        (Line("signal/auc_contrast", "e_ctr"), Line("signal/auc_one_sided", "e_c")),
        from_zero=False,
    ),
    Chart(
        "Staleness",
        "steps between the weights that sampled and those that learn",
        (Line("staleness/mean", "mean"), Line("staleness/max", "largest")),
    ),
    Chart(
        "Importance weights",
        "share of tokens cut to the threshold or masked",
        (Line("importance/changed_share", "changed"),),
    ),
    Chart(
        "Shortened hints",
        "share of hints cut to fit the teacher’s context",
        (Line("hints/cut_share", "shortened"),),
    ),
    Chart(
        "Scoring wait",
        "share of the step that waited for scores",
        (Line("scoring/wait_share", "waiting"),),
    ),
    Chart(
        "Throughput",
        "response tokens per second",
        (Line("time/tokens_per_second", "tokens/s"),),
        always=True,
    ),
    Chart(
        "GPU utilisation",
        "model FLOPs of the updates over the GPUs’ peak",
        (Line("time/mfu", "utilisation"),),
    ),
    Chart("Step time", "seconds per step", (Line("time/step_seconds", "seconds"),), always=True),
)


def charts_html(run: RunFolder) -> tuple[str, list[str]]:
    """Draw the charts that the run has figures for.

    Returns:
        The figures' HTML, and the titles of those charts that every run should have and this one
        has no figures for.
    """
    last_step = max(run.metrics[-1]["step"], 1)
    drawn, missing = [], []
    for chart in CHARTS:
        points = [point for line in chart.lines for point in run.points(line.key)]
        if points and (chart.always or any(value for _, value in points)):
            drawn.append(_figure(chart, run, last_step))
        elif chart.always:
            missing.append(chart.title)
    return "\n".join(drawn), missing


@dataclass(frozen=True, slots=True)
class _Scale:
    """From steps and values to places in the picture."""

    last_step: int
    low: float
    high: float

    def x(self, step: float) -> float:
        return _LEFT + step / self.last_step * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _figure(chart: Chart, run: RunFolder, last_step: int) -> str:
    points = {line: run.points(line.key) for line in chart.lines}
    errors = {line: dict(run.points(line.stderr_key)) for line in chart.lines if line.stderr_key}
    values = [
        value + side * errors.get(line, {}).get(step, 0.0)
        for line, course in points.items()
        for step, value in course
        for side in (-1, 1)
    ]
    ticks = _ticks(min(0.0, *values) if chart.from_zero else min(values), max(values))
    scale = _Scale(last_step, ticks[0], ticks[-1])
    body = [_axes(scale, ticks)]
    for index, line in enumerate(chart.lines):
        if line.stderr_key:
            body.append(_dots(scale, points[line], errors[line], index))
        elif points[line]:
            body.append(_course(scale, points[line], index))
    legend = "".join(
        f'<span class="key s{index}">{escape(line.label)}</span>'
        for index, line in enumerate(chart.lines)
        if len(chart.lines) > 1 and points[line]
    )
    data = {
        "x": [_LEFT, _WIDTH - _RIGHT],
        "y": [_TOP, _HEIGHT - _BOTTOM],
        "last": last_step,
        "series": [
            {
                "label": line.label,
                "points": [
                    [step, float(f"{value:.6g}"), round(scale.x(step), 1), round(scale.y(value), 1)]
                    for step, value in points[line]
                ],
            }
            for line in chart.lines
        ],
    }
    return (
        f'<figure class="chart" tabindex="0" data-chart="{escape(json.dumps(data))}">'
        f'<figcaption><strong>{escape(chart.title)}</strong><span class="note">'
        f"{escape(chart.note)}</span>{legend}</figcaption>"
        f'<output aria-live="off">{_latest(chart, points)}</output>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)} '
        f'over steps">{"".join(body)}<g class="cursor"></g></svg></figure>'
    )


def _latest(chart: Chart, points: dict[Line, list[tuple[int, float]]]) -> str:
    """What stands beside the chart until a step is pointed at."""
    return " · ".join(
        f"{escape(line.label)} {number(float(f'{points[line][-1][1]:.4g}'))}"
        for line in chart.lines
        if points[line]
    )


def _axes(scale: _Scale, ticks: Sequence[float]) -> str:
    parts = []
    for tick in ticks:
        y = scale.y(tick)
        kind = "base" if tick == ticks[0] else "grid"
        parts.append(
            f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{number(tick)}</text>"
        )
    steps = _ticks(0, scale.last_step)
    for step in (step for step in steps if step <= scale.last_step and step == int(step)):
        anchor = "start" if step == 0 else "middle" if step < 0.97 * scale.last_step else "end"
        parts.append(
            f'<text class="tick" x="{scale.x(step):.1f}" y="{_HEIGHT - 8}" '
            f'text-anchor="{anchor}">{"step " if step == 0 else ""}{number(step)}</text>'
        )
    return "".join(parts)


def _course(scale: _Scale, points: Sequence[tuple[int, float]], index: int) -> str:
    if len(points) == 1:
        return _dots(scale, points, {}, index)
    if len(points) < _SMOOTHED_FROM:
        return _polyline(scale, points, f"line s{index}")
    smooth = _polyline(scale, _moving_average(points), f"line s{index}")
    return _polyline(scale, points, f"line raw s{index}") + smooth


def _polyline(scale: _Scale, points: Sequence[tuple[int, float]], kind: str) -> str:
    places = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _dots(
    scale: _Scale, points: Sequence[tuple[int, float]], errors: dict[int, float], index: int
) -> str:
    parts = [_polyline(scale, points, f"line raw s{index}")]
    for step, value in points:
        x, error = scale.x(step), errors.get(step, 0.0)
        parts.append(
            f'<line class="error s{index}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{scale.y(value - error):.1f}" y2="{scale.y(value + error):.1f}"/>'
            f'<circle class="dot s{index}" cx="{x:.1f}" cy="{scale.y(value):.1f}" r="3.2"/>'
        )
    return "".join(parts)


def _moving_average(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Centred; at the ends over what there is."""
    reach = len(points) // _WINDOW_SHARE // 2 + 1
    averaged = []
    for place, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, place - reach) : place + reach + 1]]
        averaged.append((step, sum(window) / len(window)))
    return averaged


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose the range."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - max(abs(low) * 0.1, 0.5) * (low != 0), high + max(abs(high) * 0.1, 0.5)
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    spacing = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [float(f"{index * spacing:.10g}") for index in range(first, last + 1)]
