"""The comparison as a table: an entry a row, figures with their standard errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from student_trainer.comparison.entries import Entry
from student_trainer.comparison.figures import Mean, difference, entry_figures
from student_trainer.report.formatting import duration


@dataclass(frozen=True, slots=True)
class Table:
    """Heads and rows of cells, all plain text."""

    heads: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As a Markdown table; figures stand on the right."""
        rule = ["---", *["---:"] * (len(self.heads) - 1)]
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in (self.heads, *self.rows)]
        lines = [escaped[0], rule, *escaped[1:]]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    figure: str
    show: Callable[[float], str]
    with_error: bool = True


def _decimals(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{count}f}".replace("-", "−")


def _thousands(value: float) -> str:
    return f"{value / 1000:,.0f}k"


OUTCOME = (
    _Column("accuracy", "accuracy_after", _decimals(3)),
    _Column("length", "length_after", _decimals(1)),
    _Column("entropy", "entropy_after", _decimals(3)),
    _Column("student tokens", "student_tokens", _thousands, with_error=False),
    _Column("teacher tokens", "teacher_tokens", _thousands, with_error=False),
    _Column("time", "seconds", duration, with_error=False),
)
SIGNALS = (
    _Column("|e_c| style", "one_sided_style", _decimals(3)),
    _Column("|e_c| task", "one_sided_task", _decimals(3)),
    _Column("on style", "one_sided_style_share", lambda share: f"{share:.0%}", with_error=False),
    _Column("|e_ctr| style", "contrast_style", _decimals(3)),
    _Column("|e_ctr| task", "contrast_task", _decimals(3)),
    _Column("on style", "contrast_style_share", lambda share: f"{share:.0%}", with_error=False),
    _Column("AUC e_c", "auc_one_sided", _decimals(3)),
    _Column("AUC e_ctr", "auc_contrast", _decimals(3)),
)


def outcome_table(entries: Sequence[Entry]) -> Table:
    """What training came to; accuracies are also given as differences to the first entry."""
    first = entries[0]
    table = _table(entries, OUTCOME)
    table.heads[1:1] = ["runs"]
    table.heads[3:3] = [f"to {first.name}"] if len(entries) > 1 else []
    for entry, row in zip(entries, table.rows, strict=True):
        row[1:1] = [str(len(entry.runs))]
        if len(entries) > 1:
            row[3:3] = [_difference(entry, first)]
    return table


def signal_table(entries: Sequence[Entry]) -> Table:
    """Where the signals fall, and whether they tell right from wrong; of entries that have any."""
    kept = [entry for entry in entries if "one_sided_style" in entry_figures(entry)]
    return _table(kept, SIGNALS)


def _table(entries: Sequence[Entry], columns: Sequence[_Column]) -> Table:
    rows = []
    for entry in entries:
        figures = entry_figures(entry)
        cells = [_cell(figures.get(column.figure), column) for column in columns]
        rows.append([entry.name, *cells])
    return Table(["method", *(column.head for column in columns)], rows)


def _cell(mean: Mean | None, column: _Column) -> str:
    if mean is None:
        return "–"
    text = column.show(mean.mean)
    if not column.with_error or mean.stderr is None:
        return text
    return f"{text} ± {column.show(mean.stderr)}"


def _difference(entry: Entry, first: Entry) -> str:
    if entry is first:
        return "–"
    change = difference(entry, first, "accuracy_after")
    if change is None:
        return "–"
    sign = "+" if change.mean > 0 else ""
    error = "" if change.stderr is None else f" ± {change.stderr:.3f}"
    return f"{sign}{_decimals(3)(change.mean)}{error}"
