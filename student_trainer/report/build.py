"""Puts the report's page together from its parts."""

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import yaml

from student_trainer.report.charts import charts_html
from student_trainer.report.evaluations import evaluations_html
from student_trainer.report.formatting import duration, number, percent
from student_trainer.report.outcome import Outcome, headline, in_plain_words, read_outcome
from student_trainer.report.run_folder import RunFolder, read_run_folder
from student_trainer.report.token_signals import (
    OTHER,
    ClassMean,
    choose_rollouts,
    class_means,
    has_signal,
    page_data,
)

_HERE = Path(__file__).parent
STYLE_SHEET = _HERE / "style.css"
"""The look of the pages that are written."""


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder: one page with everything in it.

    What the run did not record (no rollouts, no evaluation) is said in words on the page.

    Returns:
        The page.

    Raises:
        InputError: There is no such folder, it holds no metrics, or one of its files is damaged.
    """
    run = read_run_folder(run_dir)
    outcome = read_outcome(run)
    curves, missing = charts_html(run)
    rollouts = choose_rollouts(run.rollouts)
    page = Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{run.name}: {headline(outcome)}"),
        run=escape(run.name),
        headline=escape(headline(outcome)),
        words="".join(f"<p>{escape(text)}</p>" for text in in_plain_words(outcome)),
        facts=_facts(run, outcome),
        figures=_figures(outcome),
        evaluations=evaluations_html(run),
        curves=curves,
        missing_curves=_missing_curves(missing),
        rollouts_title=_rollouts_title(run),
        about_signals=_about_signals(run),
        note=_note(run) if has_signal(rollouts, "e_c") else "",
        classes=_classes(run),
        rollouts_note=_rollouts_note(len(rollouts), len(run.rollouts)),
        rollouts_hidden="" if rollouts else "hidden",
        tokens=_tokens(outcome),
        stages=_stages(run),
        recipe=escape(yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True))
        if run.recipe
        else "This run's folder holds no recipe.yaml.",
        style=STYLE_SHEET.read_text(encoding="utf-8"),
        script=(_HERE / "script.js").read_text(encoding="utf-8"),
        data=json_for_script(page_data(rollouts)),
    )
    report = run_dir / "report.html"
    aside = run_dir / "report.html.new"
    aside.write_text(page, encoding="utf-8")
    os.replace(aside, report)
    return report


def json_for_script(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin
    another (HTML standard, "Restrictions for contents of script elements")."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _facts(run: RunFolder, outcome: Outcome) -> str:
    seconds = run.summary.get("seconds_total", run.metrics[-1].get("time"))
    facts = {
        "Method": outcome.method,
        "Task": run.setting("task.name") or run.setting("task.kind"),
        "Student": run.setting("student.model"),
        "Teacher": run.summary.get("teacher"),
        "Teacher’s weights": run.setting("teacher_refresh.kind") if outcome.saving else None,
        "Steps": number(outcome.steps),
        "Seed": run.setting("seed"),
        "Groups scored": _optional_number(run.summary.get("groups_scored")),
        "Time": None if seconds is None else duration(seconds),
    }
    return "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )


def _figures(outcome: Outcome) -> str:
    """The tiles under the headline."""
    tiles = []
    before, after = outcome.before, outcome.after
    if before is not None:
        accuracies = [accuracy for accuracy in (before, after) if accuracy is not None]
        note = " → ".join(f"± {number(round(100 * a.stderr, 2))}" for a in accuracies)
        samples = f", {number(before.samples)} samples each" if before.samples else ""
        tiles.append(
            (
                "Held-out accuracy",
                " → ".join(percent(accuracy.share) for accuracy in accuracies),
                f"standard error {note} points{samples}",
            )
        )
    else:
        tiles.append(("Held-out accuracy", "not measured", "no evaluation in this run"))
    for name, change, unit in (
        ("Response length", outcome.length, "tokens, before → after"),
        ("Entropy", outcome.entropy, "nats per token, before → after"),
    ):
        if change is not None:
            tiles.append((name, f"{number(change.before)} → {number(change.after)}", unit))
    if outcome.saving is not None:
        tiles.append(
            ("Teacher's work", f"{number(outcome.saving)}×", "fewer tokens than one pass per pair")
        )
    if outcome.saving is not None and outcome.wait_share is not None:
        tiles.append(("Scoring wait", percent(outcome.wait_share), "of training time"))
    return "".join(
        f'<div class="tile"><h3>{escape(name)}</h3><p class="figure">{escape(figure)}</p>'
        f"<p>{escape(note)}</p></div>"
        for name, figure, note in tiles
    )


def _missing_curves(titles: Sequence[str]) -> str:
    if not titles:
        return ""
    names = ", ".join(title.lower() for title in titles)
    return f'<p class="absent">Not recorded in this run: {escape(names)}.</p>'


def _rollouts_title(run: RunFolder) -> str:
    return "Where the signal falls" if has_signal(run.rollouts, "e_c") else "What it wrote"


def _about_signals(run: RunFolder) -> str:
    """What the signals are that this run's rollouts carry."""
    contrast, one_sided = (has_signal(run.rollouts, signal) for signal in ("e_ctr", "e_c"))
    words = []
    if contrast:
        words.append(
            "The <b>contrast</b> <i>e</i><sub>ctr</sub> asks of each token how much more likely "
            "the teacher finds it under a correct hint than under wrong ones."
        )
    if one_sided and run.setting("method.kind") == "opd":
        words.append(
            "The signal <i>e</i><sub>c</sub> is the teacher’s log prob of each token less the "
            "student’s; both read the problem alone."
        )
    elif one_sided:
        words.append(
            "The <b>one-sided</b> signal <i>e</i><sub>c</sub> compares the teacher under the "
            "correct hint with the student without one, and so also reacts to wording that any "
            "hint changes."
        )
    return f'<p class="about">{" ".join(words)}</p>' if words else ""


def _classes(run: RunFolder) -> str:
    """Mean |signal| by token class, in words and as a table."""
    means = class_means(run.rollouts)
    if not means:
        return ""
    contrasts = [mean.contrast for mean in means if mean.contrast is not None]
    named = [mean for mean in means if mean.name != OTHER] or means
    if contrasts:
        main = max(named, key=lambda mean: mean.contrast_share or 0.0)
        words = (
            f"{percent(main.contrast_share or 0.0)} of the contrast falls on {escape(main.name)} "
            f"tokens, against {percent(main.one_sided_share)} of the one-sided signal."
        )
    else:
        main = max(named, key=lambda mean: mean.one_sided_share)
        words = (
            f"{percent(main.one_sided_share)} of the one-sided signal falls on "
            f"{escape(main.name)} tokens."
        )
    top_contrast = max(contrasts, default=None)
    top_one_sided = max(mean.one_sided for mean in means)
    rows = "".join(_class_row(mean, top_contrast, top_one_sided) for mean in means)
    contrast_head = '<th scope="col">mean |e_ctr|</th><th scope="col">share</th>'
    return (
        f"<p>{words} Means per token over all rollouts kept, and each kind’s share of a signal’s "
        'total:</p><div class="scroll"><table class="classes"><thead><tr>'
        '<th scope="col">tokens</th><th scope="col">number</th>'
        f"{contrast_head if contrasts else ''}"
        '<th scope="col">mean |e_c|</th><th scope="col">share</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _class_row(mean: ClassMean, top_contrast: float | None, top_one_sided: float) -> str:
    def cells(value: float | None, share: float | None, top: float) -> str:
        if value is None or share is None:
            return "<td>–</td><td>–</td>"
        width = 100 * value / top if top else 0
        return (
            f'<td><span class="bar" style="--w:{width:.1f}%">{number(value)}</span></td>'
            f"<td>{percent(share)}</td>"
        )

    contrast = (
        "" if top_contrast is None else cells(mean.contrast, mean.contrast_share, top_contrast)
    )
    return (
        f'<tr><th scope="row">{escape(mean.name)}</th><td>{number(mean.tokens)}</td>'
        f"{contrast}{cells(mean.one_sided, mean.one_sided_share, top_one_sided)}</tr>"
    )


def _note(run: RunFolder) -> str:
    """What the recipe's author wants readers of the signals to know (`report.note`)."""
    note = run.setting("report.note")
    return f'<p class="absent">{escape(str(note))}</p>' if note else ""


def _rollouts_note(shown: int, kept: int) -> str:
    if kept == 0:
        return '<p class="absent">This run kept no rollouts.</p>'
    if shown < kept:
        return (
            f"<p>{number(shown)} of the {number(kept)} rollouts kept, evenly spread over the run; "
            "the others are in rollouts.jsonl.</p>"
        )
    return ""


def _tokens(outcome: Outcome) -> str:
    """Tokens that the teacher computed, beside those of the naive way."""
    if outcome.tokens_naive is None or outcome.tokens_computed is None or outcome.saving is None:
        return '<p class="absent">No scoring was done in this run.</p>'
    saved = 1 - outcome.tokens_computed / outcome.tokens_naive
    bars = _bars(
        {
            "one pass per pair": (outcome.tokens_naive, number(outcome.tokens_naive)),
            "computed": (outcome.tokens_computed, number(outcome.tokens_computed)),
        }
    )
    return (
        f"{bars}<p>Each context is computed once and shared by the responses under it: "
        f"{percent(saved)} of the tokens saved, {number(outcome.saving)}× less work.</p>"
    )


def _stages(run: RunFolder) -> str:
    stages: Mapping[str, float] = run.summary.get("seconds_by_stage") or {}
    if not stages:
        return '<p class="absent">The run has not written its times by stage.</p>'
    total = run.summary.get("seconds_total")
    note = f"<p>{duration(total)} in all.</p>" if total is not None else ""
    bars = _bars(
        {name.replace("_", " "): (value, duration(value)) for name, value in stages.items()}
    )
    return bars + note


def _bars(bars: Mapping[str, tuple[float, str]]) -> str:
    """Horizontal bars: name → (length, what stands beside it)."""
    longest = max(length for length, _ in bars.values()) or 1
    return (
        '<dl class="bars">'
        + "".join(
            f'<div><dt>{escape(name)}</dt><dd><span class="bar" '
            f'style="--w:{100 * length / longest:.1f}%">{escape(text)}</span></dd></div>'
            for name, (length, text) in bars.items()
        )
        + "</dl>"
    )


def _optional_number(value: float | None) -> str | None:
    return None if value is None else number(value)
