"""What a run took: tokens at the teacher, and its time by stage."""

from collections.abc import Mapping

from student_trainer.report.bars import bars
from student_trainer.report.formatting import duration, number, percent
from student_trainer.report.outcome import Outcome
from student_trainer.report.run_folder import RunFolder


def cost_html(run: RunFolder, outcome: Outcome) -> str:
    """Both as bars; what was not recorded is said in words."""
    return (
        '<div class="halves">'
        f"<figure><figcaption>Tokens at the teacher</figcaption>{_tokens(outcome)}</figure>"
        f"<figure><figcaption>Time by stage</figcaption>{_stages(run)}</figure></div>"
    )


def _tokens(outcome: Outcome) -> str:
    """Tokens that the teacher computed, beside those of the naive way."""
    if outcome.tokens_naive is None or outcome.tokens_computed is None or outcome.saving is None:
        return '<p class="remark">No scoring was done in this run.</p>'
    saved = 1 - outcome.tokens_computed / outcome.tokens_naive
    shown = bars(
        {
            "one pass per pair": (outcome.tokens_naive, number(outcome.tokens_naive)),
            "computed": (outcome.tokens_computed, number(outcome.tokens_computed)),
        }
    )
    return (
        f"{shown}<p>Each context is computed once and shared by the responses under it: "
        f"{percent(saved)} of the tokens saved, {number(outcome.saving)}× less work.</p>"
    )


def _stages(run: RunFolder) -> str:
    stages: Mapping[str, float] = run.summary.get("seconds_by_stage") or {}
    if not stages:
        return '<p class="remark">The run has not written its times by stage.</p>'
    total = run.summary.get("seconds_total")
    note = f"<p>{duration(total)} in all.</p>" if total is not None else ""
    shown = {name.replace("_", " "): (value, duration(value)) for name, value in stages.items()}
    return bars(shown) + note
