"""The figures of runs, and their means over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from student_trainer.comparison.axes import moving_average
from student_trainer.comparison.entries import Entry
from student_trainer.report.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Mean:
    """A figure's mean over the runs that have it."""

    mean: float
    stderr: float | None
    """Standard error of the mean, from the spread between runs; None for a single run."""
    n: int
    """Runs."""


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of at least one value, with the standard error s/√n."""
    count = len(values)
    return Mean(fmean(values), stdev(values) / sqrt(count) if count > 1 else None, count)


def _final(key: str) -> Callable[[RunFolder], float | None]:
    return lambda run: run.summary.get(key)


def _over_steps(key: str) -> Callable[[RunFolder], float | None]:
    def read(run: RunFolder) -> float | None:
        values = [value for _, value in run.points(key)]
        return fmean(values) if values else None

    return read


def _student_tokens(run: RunFolder) -> float:
    rollouts = run.setting("rollouts.prompts_per_step") * run.setting("rollouts.group_size")
    return float(round(rollouts * sum(length for _, length in run.points("rollout/length"))))


def _teacher_tokens(run: RunFolder) -> float | None:
    return run.summary["tokens_computed"] if run.summary.get("teacher") else None


FIGURES: Mapping[str, Callable[[RunFolder], float | None]] = {
    "accuracy_before": _final("heldout_accuracy_before"),
    "accuracy_after": _final("heldout_accuracy_after"),
    "length_before": _final("response_length_before"),
    "length_after": _final("response_length_after"),
    "entropy_before": _final("entropy_before"),
    "entropy_after": _final("entropy_after"),
    "one_sided_style": _over_steps("signal/one_sided_abs/style"),
    "one_sided_task": _over_steps("signal/one_sided_abs/task"),
    "contrast_style": _over_steps("signal/contrast_abs/style"),
    "contrast_task": _over_steps("signal/contrast_abs/task"),
    "one_sided_style_share": _over_steps("signal/one_sided_share/style"),
    "contrast_style_share": _over_steps("signal/contrast_share/style"),
    "auc_one_sided": _over_steps("signal/auc_one_sided"),
    "auc_contrast": _over_steps("signal/auc_contrast"),
    "student_tokens": _student_tokens,
    "teacher_tokens": _teacher_tokens,
    "seconds": _final("seconds_total"),
}
"""What is read of each run. Of the signals: the mean over all steps; sizes in nats per token.
`student_tokens` are those of the training rollouts, `teacher_tokens` those that the teacher
computed, and `seconds` include evaluations."""


def run_figures(run: RunFolder) -> dict[str, float]:
    """The figures that a run has."""
    found = {name: read(run) for name, read in FIGURES.items()}
    return {name: value for name, value in found.items() if value is not None}


def entry_figures(entry: Entry) -> dict[str, Mean]:
    """Means of the figures over an entry's runs."""
    of_runs = [run_figures(run) for run in entry.runs.values()]
    return {
        name: mean_of([figures[name] for figures in of_runs if name in figures])
        for name in FIGURES
        if any(name in figures for figures in of_runs)
    }


def difference(entry: Entry, other: Entry, figure: str) -> Mean | None:
    """How far an entry is above another in a figure, paired by seed; None without common seeds.

    Runs of a seed share their problems and their sampling noise at the start, so the error of
    their differences is that of the comparison.
    """
    seeds = [seed for seed in entry.runs if seed in other.runs]
    read = FIGURES[figure]
    pairs = [(read(entry.runs[seed]), read(other.runs[seed])) for seed in seeds]
    known = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return mean_of(known) if known else None


def curve(entry: Entry, metric: str, *, smooth: bool) -> list[tuple[int, Mean]]:
    """(step, mean over runs) of a metric, at the steps at which every run has it.

    Args:
        entry: the runs.
        metric: name in `metrics.jsonl`.
        smooth: take each run's moving average, for metrics of single steps.
    """
    courses = []
    for run in entry.runs.values():
        points = run.points(metric)
        courses.append(dict(moving_average(points) if smooth else points))
    steps = sorted(set.intersection(*(set(course) for course in courses)))
    return [(step, mean_of([course[step] for course in courses])) for step in steps]
