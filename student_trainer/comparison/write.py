"""Writes a comparison: JSON with every figure, Markdown, plots, all of it as one HTML page, and a
report of the single runs."""

import base64
import dataclasses
import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from counterhint.errors import InputError
from student_trainer.comparison.entries import Entry, read_entries
from student_trainer.comparison.figures import curve, difference, entry_figures, run_figures
from student_trainer.comparison.plots import Course, Panel, bar_plot, dot_plot, line_plot
from student_trainer.comparison.table import Table, outcome_table, signal_table
from student_trainer.report import report_styles, write_report

_PAGE = Path(__file__).with_name("page.html")
_CURVES = {
    "accuracy": ("eval/accuracy", "Held-out accuracy", False),
    "reward": ("rollout/reward", "Reward: share of right rollouts", True),
    "length": ("rollout/length", "Response length, tokens", True),
    "entropy": ("rollout/entropy", "Entropy, nats per token", True),
}
"""By name: the metric, the plot's title, and whether single steps are smoothed."""
_E_C, _E_CTR = "one-sided e_c", "contrast e_ctr"
_NOTES = (
    "Means over runs with different seeds, ± standard error of the mean (s/√n). Differences to the "
    "first row are paired by seed. Accuracy, length and entropy are those of the held-out problems "
    "after the last step; student tokens those of all training rollouts, teacher tokens those that "
    "the teacher computed; time includes evaluations.",
    "Means over all steps. |e_c|: size of the teacher's log prob less the student's, in nats per "
    "token; |e_ctr|: the same of the correct hint against wrong ones, where a method reads both. "
    "“On style” is the share of the sum over all tokens that falls on style tokens. AUC: the "
    "probability that a right value of a step has the larger signal than a wrong one; 0.5 is "
    "chance.",
)


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Compares finished runs.

    Writes `comparison.json`, `comparison.md`, `comparison.html`, the plots as SVG, and the runs'
    report as `report.html`.

    Args:
        folders: of the runs. Runs that differ in their seed alone are one entry.
        out: folder for the files; made when it does not exist.

    Returns:
        The HTML page.

    Raises:
        InputError: a folder is no finished run's, two runs are the same, or `out` is a file.
    """
    entries = read_entries(folders)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: name a folder")
    out.mkdir(parents=True, exist_ok=True)
    plots = _plots(entries)
    for name, plot in plots.items():
        _write(out / f"{name}.svg", plot)
    _write(out / "comparison.json", json.dumps(_as_json(entries, out), indent=2) + "\n")
    _write(out / "comparison.md", _markdown(entries, list(plots)))
    write_report(folders, out / "report.html")
    page = out / "comparison.html"
    _write(page, _html(entries, plots, out))
    return page


def _as_json(entries: Sequence[Entry], out: Path) -> dict[str, Any]:
    return {"methods": [_entry_as_json(entry, entries[0], out) for entry in entries]}


def _entry_as_json(entry: Entry, first: Entry, out: Path) -> dict[str, Any]:
    change = difference(entry, first, "accuracy_after")
    return {
        "name": entry.name,
        "teacher": next(iter(entry.runs.values())).summary.get("teacher"),
        "seeds": list(entry.runs),
        "figures": {name: dataclasses.asdict(mean) for name, mean in entry_figures(entry).items()},
        "accuracy_to_first": None
        if entry is first or change is None
        else dataclasses.asdict(change),
        "runs": [
            {"seed": seed, "folder": os.path.relpath(run.path, out), "figures": run_figures(run)}
            for seed, run in entry.runs.items()
        ],
        "curves": {
            name: [
                {"step": step, **dataclasses.asdict(mean)}
                for step, mean in curve(entry, metric, smooth=False)
            ]
            for name, (metric, _, _) in _CURVES.items()
        },
    }


def _plots(entries: Sequence[Entry]) -> dict[str, str]:
    """SVG by name."""
    plots = {}
    for name, (metric, title, smooth) in _CURVES.items():
        courses = [Course(entry.name, curve(entry, metric, smooth=smooth)) for entry in entries]
        shown = [course for course in courses if course.points]
        if shown:
            plots[name] = line_plot(title, shown)
    figures = {entry.name: entry_figures(entry) for entry in entries}
    rows = [name for name, found in figures.items() if "one_sided_style" in found]
    if rows:
        panels = [
            Panel(
                title,
                {
                    name: {
                        series: figures[name][f"{signal}_{series}"]
                        for series in ("style", "task")
                        if f"{signal}_{series}" in figures[name]
                    }
                    for name in rows
                },
            )
            for title, signal in (
                ("|e_c|, one-sided, nats per token", "one_sided"),
                ("|e_ctr|, contrast, nats per token", "contrast"),
            )
        ]
        plots["signals"] = bar_plot(panels, rows)
    aucs = {
        name: {
            series: found[figure]
            for series, figure in ((_E_C, "auc_one_sided"), (_E_CTR, "auc_contrast"))
            if figure in found
        }
        for name, found in figures.items()
    }
    judged = [name for name, found in aucs.items() if found]
    if judged:
        title = "AUC of the signal: right against wrong values of steps"
        plots["auc"] = dot_plot(Panel(title, aucs), judged, (_E_C, _E_CTR), reference=0.5)
    return plots


def _markdown(entries: Sequence[Entry], plots: Sequence[str]) -> str:
    outcome, signals = outcome_table(entries), signal_table(entries)
    parts = ["# Comparison\n", outcome.markdown(), _NOTES[0] + "\n"]
    if signals.rows:
        parts += [signals.markdown(), _NOTES[1] + "\n"]
    parts += [f"![{name}]({name}.svg)\n" for name in plots]
    return "\n".join(parts)


def _html(entries: Sequence[Entry], plots: dict[str, str], out: Path) -> str:
    signals = signal_table(entries)
    pictures = "".join(
        f'<figure><img alt="{name}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(plot.encode()).decode()}"></figure>'
        for name, plot in plots.items()
    )
    names = ", ".join(entry.name for entry in entries)
    runs = sum(len(entry.runs) for entry in entries)
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Comparison: {names}"),
        style=report_styles(),
        runs=runs,
        count=len(entries),
        outcome=_html_table(outcome_table(entries)),
        outcome_note=escape(_NOTES[0]),
        signals=_html_table(signals) if signals.rows else "",
        signals_note=escape(_NOTES[1]) if signals.rows else "No run has a teacher’s signal.",
        plots=pictures,
        folders="".join(
            f"<li>{escape(entry.name)}, seed {seed}: {escape(os.path.relpath(run.path, out))}</li>"
            for entry in entries
            for seed, run in entry.runs.items()
        ),
    )


def _html_table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
