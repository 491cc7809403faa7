"""Evaluations as tables for a terminal."""

from rich.table import Table
from rich.text import Text

from student_trainer.evaluation.estimates import Estimate
from student_trainer.evaluation.results import Evaluation, Evaluations, comparable


def evaluations_table(after: Evaluations, before: Evaluations | None = None) -> Table:
    """A line for each accuracy and each pass@k of each set.

    Args:
        after: what is shown.
        before: an earlier evaluation: sets of the same problems show the change since.
    """
    level = f"{next(iter(after.sets.values())).confidence:.0%}"
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("set", no_wrap=True)
    table.add_column("problems", justify="right")
    table.add_column("estimate", no_wrap=True)
    paired = [] if before is None else comparable(before, after)
    if paired:
        table.add_column("before", justify="right")
    table.add_column("value", justify="right")
    table.add_column(f"{level} interval", justify="right", no_wrap=True)
    if paired:
        table.add_column("change", justify="right")
        table.add_column(f"{level} interval", justify="right", no_wrap=True)
    for column in ("tokens", "truncated", "entropy"):
        table.add_column(column, justify="right")
    for name, evaluation in after.sets.items():
        earlier = before.sets[name] if before is not None and name in paired else None
        changes = {} if earlier is None else evaluation.change_from(earlier)
        values = {} if earlier is None else _estimates(earlier)
        for line, (label, estimate) in enumerate(_estimates(evaluation).items()):
            first = line == 0
            cells = [name if first else "", str(len(evaluation.problems)) if first else ""]
            cells.append(_named(label, evaluation))
            if paired:
                cells.append(_percent(values[label].value) if label in values else "")
            cells += [_percent(estimate.value), _interval(estimate)]
            if paired:
                change = changes.get(label)
                cells += ["", ""] if change is None else [_signed(change.value), _range(change)]
            cells += _samples(evaluation) if first else ["", "", ""]
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _estimates(evaluation: Evaluation) -> dict[str, Estimate]:
    passes = {f"pass@{k}": estimate for k, estimate in evaluation.pass_at_k.items()}
    return {"accuracy": evaluation.accuracy, **passes}


def _named(label: str, evaluation: Evaluation) -> str:
    if label != "accuracy":
        return label
    return f"mean@{max(problem.samples for problem in evaluation.problems)}"


def _samples(evaluation: Evaluation) -> list[str]:
    entropy = "" if evaluation.entropy is None else f"{evaluation.entropy:.3f}"
    return [f"{evaluation.length:,.0f}", f"{evaluation.truncated_share:.1%}", entropy]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}"


def _range(change: Estimate) -> str:
    return f"{_signed(change.low)} … {_signed(change.high)}"
