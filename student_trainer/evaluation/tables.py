"""Evaluations as tables for a terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from student_trainer.evaluation.estimates import Estimate
from student_trainer.evaluation.results import Evaluation, Evaluations, comparable

_FULL_WIDTH = 160


def evaluations_table(after: Evaluations, before: Evaluations | None = None) -> Table:
    """A line for each accuracy and each pass@k of each set.

    Args:
        after: what is shown.
        before: an earlier evaluation: sets of the same problems show the change since, in
            percentage points, paired by problem; the others leave those cells empty.
    """
    level = f"{next(iter(after.sets.values())).confidence:.0%} interval"
    paired = [] if before is None else comparable(before, after.problem_ids)
    columns = ["set", "problems", "estimate"]
    columns += ["value", level] if before is None else ["before", "after", level, "change", level]
    columns += ["tokens", "truncated", "entropy"] if before is None else ["tokens", "entropy"]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column, no_wrap=True, justify="left" if column in ("set", "estimate") else "right"
        )
    for name, evaluation in after.sets.items():
        earlier = before.sets[name] if before is not None and name in paired else None
        for line in _lines(name, evaluation, earlier, compared=before is not None):
            table.add_row(*(Text(cell) for cell in line))
    return table


def print_evaluations(after: Evaluations, before: Evaluations | None = None) -> None:
    """Prints the table to standard output; into a file or pipe in full width."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FULL_WIDTH)
    console.print(evaluations_table(after, before))


def _lines(
    name: str, evaluation: Evaluation, earlier: Evaluation | None, *, compared: bool
) -> Iterator[list[str]]:
    changes = {} if earlier is None else evaluation.change_from(earlier)
    values = {} if earlier is None else _estimates(earlier)
    for line, (label, estimate) in enumerate(_estimates(evaluation).items()):
        cells = [name, str(len(evaluation.problems))] if line == 0 else ["", ""]
        cells.append(_named(label, evaluation))
        if compared:
            cells.append(_percent(values[label].value) if label in values else "")
        cells += [_percent(estimate.value), _interval(estimate)]
        if compared:
            change = changes.get(label)
            cells += ["", ""] if change is None else [_signed(change.value), _range(change)]
        if line == 0:
            cells += _samples(evaluation, earlier, compared=compared)
        yield cells


def _estimates(evaluation: Evaluation) -> dict[str, Estimate]:
    passes = {f"pass@{k}": estimate for k, estimate in evaluation.pass_at_k.items()}
    return {"accuracy": evaluation.accuracy, **passes}


def _named(label: str, evaluation: Evaluation) -> str:
    if label != "accuracy":
        return label
    return f"mean@{max(problem.samples for problem in evaluation.problems)}"


def _samples(evaluation: Evaluation, earlier: Evaluation | None, *, compared: bool) -> list[str]:
    length, entropy = f"{evaluation.length:,.0f}", _nats(evaluation.entropy)
    if not compared:
        return [length, f"{evaluation.truncated_share:.1%}", entropy]
    if earlier is None:
        return [length, entropy]
    return [f"{earlier.length:,.0f} → {length}", f"{_nats(earlier.entropy)} → {entropy}"]


def _nats(entropy: float | None) -> str:
    return "?" if entropy is None else f"{entropy:.2f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}"


def _range(change: Estimate) -> str:
    return f"{_signed(change.low)} … {_signed(change.high)}"
