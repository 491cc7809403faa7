"""Puts the report's page together from its parts."""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import yaml

from counterhint.errors import InputError
from counterhint.views.inlined import inlined_script, inlined_styles
from student_trainer.report.class_means import class_means_html, has_signal
from student_trainer.report.cost import cost_html
from student_trainer.report.evaluations import evaluations_html
from student_trainer.report.formatting import duration, number
from student_trainer.report.outcome import headline, in_plain_words
from student_trainer.report.shown_run import ShownRun, read_shown_runs

_HERE = Path(__file__).parent
_COLOURS = 6
"""Of the views; the runs take them in turn."""
_EXPECTED = {
    "eval/accuracy": "held-out accuracy",
    "rollout/reward": "reward",
    "rollout/mixed_groups": "mixed groups",
    "rollout/length": "response length",
    "rollout/entropy": "entropy",
    "optim/grad_norm": "gradient norm",
    "time/tokens_per_second": "throughput",
    "time/step_seconds": "step time",
}
"""What every run should have recorded, so that it is worth a word when it has not."""


def write_report(folders: Sequence[Path], page: Path) -> Path:
    """Write one page with everything in it: figures and rollouts of a run, or of several.

    What a run did not record (no rollouts, no evaluation) is said in words on the page.

    Args:
        folders: of the runs, finished or not.
        page: the file; its folder is made when it does not exist.

    Returns:
        The page.

    Raises:
        InputError: A folder is given twice, is no run's, or one of its files is damaged; or `page`
            is a folder.
    """
    if page.is_dir():
        raise InputError(f"{page} is a folder: name a file for the report")
    text = _page(read_shown_runs(folders))
    page.parent.mkdir(parents=True, exist_ok=True)
    aside = page.with_name(f"{page.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, page)
    return page


def report_styles() -> str:
    """The look of the pages that are written."""
    own = (_HERE / "report.css").read_text(encoding="utf-8")
    return inlined_styles("theme.css", "token_view.css", "run_view.css") + own


def json_for_script(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin
    another (HTML standard, "Restrictions for contents of script elements")."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _page(runs: Sequence[ShownRun]) -> str:
    first = runs[0]
    alone = len(runs) == 1
    names = ", ".join(run.name for run in runs)
    script = inlined_script(_HERE / "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{first.name}: {headline(first.outcome)}" if alone else f"Runs {names}"),
        eyebrow=f"run <b>{escape(first.name)}</b>" if alone else "report",
        headline=escape(headline(first.outcome) if alone else f"{len(runs)} runs side by side"),
        outcomes=_outcomes(runs),
        evaluations=_of_each(runs, lambda run: evaluations_html(run.run)),
        drawn="" if alone else _DRAWN,
        words_on_figures=_paragraphs(runs, _not_recorded),
        rollouts_title=_rollouts_title(runs),
        about_signals=_about_signals(runs),
        notes=_notes(runs),
        classes=_of_each(runs, lambda run: class_means_html(run.run.rollouts)),
        words_on_rollouts=_paragraphs(runs, _on_rollouts),
        cost=_of_each(runs, lambda run: cost_html(run.run, run.outcome)),
        recipes="".join(_recipe(run, alone) for run in runs),
        styles=report_styles(),
        script=script,
        digest=digest,
        data=json_for_script({"runs": [run.data() for run in runs]}),
    )


_DRAWN = '<fieldset id="drawn" class="drawn"><legend>Runs that are drawn</legend></fieldset>'


def _key(runs: Sequence[ShownRun], run: ShownRun) -> str:
    """A run's name in the colour of its lines."""
    colour = runs.index(run) % _COLOURS
    return f'<h3><bdi class="key s{colour}">{escape(run.name)}</bdi></h3>'


def _of_each(runs: Sequence[ShownRun], render: Callable[[ShownRun], str]) -> str:
    """What each run has of a part of the page, below its name where there are several runs."""
    parts = [("" if len(runs) == 1 else _key(runs, run), render(run)) for run in runs]
    return "".join(f"<div>{name}{part}</div>" for name, part in parts if part)


def _paragraphs(runs: Sequence[ShownRun], words: Callable[[ShownRun], list[str]]) -> str:
    return "".join(
        f'<p class="remark">{escape(text if len(runs) == 1 else f"{run.name}: {text}")}</p>'
        for run in runs
        for text in words(run)
    )


def _outcomes(runs: Sequence[ShownRun]) -> str:
    """Each run's outcome in words, as tiles, which the script fills, and its facts."""
    articles = "".join(
        f"<article>{'' if len(runs) == 1 else _named_headline(runs, run)}"
        f'<div class="lede">{_words(run)}</div><div data-tiles="{place}"></div>'
        f'<dl class="run-facts">{_facts(run)}</dl></article>'
        for place, run in enumerate(runs)
    )
    title = "" if len(runs) == 1 else "<h2>Outcomes</h2>"
    return f'{title}<div class="outcomes">{articles}</div>'


def _named_headline(runs: Sequence[ShownRun], run: ShownRun) -> str:
    return f'{_key(runs, run)}<p class="outcome">{escape(headline(run.outcome))}</p>'


def _words(run: ShownRun) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in in_plain_words(run.outcome))


def _facts(shown: ShownRun) -> str:
    run, outcome = shown.run, shown.outcome
    seconds = run.summary.get("seconds_total", run.metrics[-1].get("time"))
    scored = run.summary.get("groups_scored")
    facts = {
        "Method": outcome.method,
        "Task": run.setting("task.name") or run.setting("task.kind"),
        "Student": run.setting("student.model"),
        "Teacher": run.summary.get("teacher"),
        "Teacher’s weights": run.setting("teacher_refresh.kind") if outcome.saving else None,
        "Steps": number(outcome.steps),
        "Seed": run.setting("seed"),
        "Groups scored": None if scored is None else number(scored),
        "Time": None if seconds is None else duration(seconds),
    }
    return "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )


def _not_recorded(shown: ShownRun) -> list[str]:
    missing = [name for key, name in _EXPECTED.items() if not shown.run.points(key)]
    words = [f"Not recorded in this run: {', '.join(missing)}."] if missing else []
    return words + shown.left_out


def _on_rollouts(shown: ShownRun) -> list[str]:
    if not shown.run.rollouts:
        return ["This run kept no rollouts."]
    if not has_signal(shown.run.rollouts, "e_c"):
        return ["Its rollouts carry no teacher’s signal."]
    return []


def _rollouts_title(runs: Sequence[ShownRun]) -> str:
    scored = any(has_signal(run.run.rollouts, "e_c") for run in runs)
    return "Where the signal falls" if scored else "What it wrote"


def _about_signals(runs: Sequence[ShownRun]) -> str:
    """What the signals are that the rollouts carry."""
    scored = [run for run in runs if has_signal(run.run.rollouts, "e_c")]
    unhinted = [run for run in scored if run.run.setting("method.kind") == "opd"]
    words = []
    if any(has_signal(run.run.rollouts, "e_ctr") for run in scored):
        words.append(
            "The <b>contrast</b> <i>e</i><sub>ctr</sub> asks of each token how much more likely "
            "the teacher finds it under a correct hint than under wrong ones."
        )
    if len(unhinted) < len(scored):
        words.append(
            "The <b>one-sided</b> signal <i>e</i><sub>c</sub> compares the teacher under the "
            "correct hint with the student without one, and so also reacts to wording that any "
            "hint changes."
        )
    if unhinted:
        whose = "" if len(runs) == 1 else " of opd"
        words.append(
            f"The signal <i>e</i><sub>c</sub>{whose} is the teacher’s log prob of each token less "
            "the student’s; both read the problem alone."
        )
    return f'<p class="about">{" ".join(words)}</p>' if words else ""


def _notes(runs: Sequence[ShownRun]) -> str:
    """What the recipes' authors want readers of the signals to know (`report.note`)."""
    scored = [run for run in runs if has_signal(run.run.rollouts, "e_c")]
    notes = dict.fromkeys(run.run.setting("report.note") for run in scored)
    return "".join(f'<p class="remark">{escape(str(note))}</p>' for note in notes if note)


def _recipe(shown: ShownRun, alone: bool) -> str:
    recipe = (
        yaml.safe_dump(dict(shown.run.recipe), sort_keys=False, allow_unicode=True)
        if shown.run.recipe
        else "This run's folder holds no recipe.yaml."
    )
    whose = "" if alone else f" of {shown.name}"
    summary = escape(f"All settings{whose}, as resolved")
    return f"<details><summary>{summary}</summary><pre>{escape(recipe)}</pre></details>"
