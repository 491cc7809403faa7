"""Small line charts as SVG, drawn without a library; the page's script adds the values on hover."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from student_trainer.report.axes import Frame, Scale, axes, moving_average, polyline, ticks
from student_trainer.report.formatting import number
from student_trainer.report.run_folder import RunFolder

_FRAME = Frame(width=340, height=170, left=46, right=10, top=10, bottom=24)
_SMOOTHED_FROM = 30
"""Points from which on a line gets a moving average drawn over it."""


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


def _figure(chart: Chart, run: RunFolder, last_step: int) -> str:
    points = {line: run.points(line.key) for line in chart.lines}
    errors = {line: dict(run.points(line.stderr_key)) for line in chart.lines if line.stderr_key}
    values = [
        value + side * errors.get(line, {}).get(step, 0.0)
        for line, course in points.items()
        for step, value in course
        for side in (-1, 1)
    ]
    places = ticks(min(0.0, *values) if chart.from_zero else min(values), max(values))
    scale = Scale(_FRAME, last_step, places[0], places[-1])
    body = [axes(scale, places)]
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
        "x": [_FRAME.left, _FRAME.width - _FRAME.right],
        "y": [_FRAME.top, _FRAME.height - _FRAME.bottom],
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
        f'<svg viewBox="0 0 {_FRAME.width} {_FRAME.height}" role="img" '
        f'aria-label="{escape(chart.title)} over steps">{"".join(body)}<g class="cursor"></g></svg>'
        "</figure>"
    )


def _latest(chart: Chart, points: dict[Line, list[tuple[int, float]]]) -> str:
    """What stands beside the chart until a step is pointed at."""
    return " · ".join(
        f"{escape(line.label)} {number(float(f'{points[line][-1][1]:.4g}'))}"
        for line in chart.lines
        if points[line]
    )


def _course(scale: Scale, points: Sequence[tuple[int, float]], index: int) -> str:
    if len(points) == 1:
        return _dots(scale, points, {}, index)
    if len(points) < _SMOOTHED_FROM:
        return polyline(scale, points, f"line s{index}")
    smooth = polyline(scale, moving_average(points), f"line s{index}")
    return polyline(scale, points, f"line raw s{index}") + smooth


def _dots(
    scale: Scale, points: Sequence[tuple[int, float]], errors: dict[int, float], index: int
) -> str:
    parts = [polyline(scale, points, f"line raw s{index}")]
    for step, value in points:
        x, error = scale.x(step), errors.get(step, 0.0)
        parts.append(
            f'<line class="error s{index}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{scale.y(value - error):.1f}" y2="{scale.y(value + error):.1f}"/>'
            f'<circle class="dot s{index}" cx="{x:.1f}" cy="{scale.y(value):.1f}" r="3.2"/>'
        )
    return "".join(parts)
