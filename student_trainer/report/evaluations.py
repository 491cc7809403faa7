"""The table of held-out evaluations, for runs that have more than one estimate."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from student_trainer.report.formatting import percent
from student_trainer.report.run_folder import RunFolder

_ESTIMATE = re.compile(r"eval/(?:(?P<set>[^/]+)/)?(?P<figure>accuracy|pass@\d+)")
_DEFAULT_SET = "heldout"


def evaluations_html(run: RunFolder) -> str:
    """Each accuracy and pass@k of each set at the first and the latest evaluation, and the change
    problem by problem; empty for a run with one estimate, which the page's head shows."""
    keys = {key for row in run.metrics for key in row if _ESTIMATE.fullmatch(key)}
    if len(keys) < 2:
        return ""
    level = percent(run.setting("evaluation.confidence") or 0.95).replace(".0%", "%")
    heads = (
        "set",
        "estimate",
        "first",
        "latest",
        f"{level} interval",
        "change",
        f"{level} interval",
    )
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + "</tr></thead><tbody>"
        + "".join(_row(run, key) for key in sorted(keys, key=_order))
        + "</tbody></table></div>"
    )


def _order(key: str) -> tuple[bool, str, int]:
    """The default set first, then by name; accuracy before pass@k."""
    name, figure = _parts(key)
    return name != _DEFAULT_SET, name, int(figure.removeprefix("pass@").replace("accuracy", "0"))


def _parts(key: str) -> tuple[str, str]:
    found = _ESTIMATE.fullmatch(key)
    assert found is not None
    return found["set"] or _DEFAULT_SET, found["figure"]


def _row(run: RunFolder, key: str) -> str:
    name, figure = _parts(key)
    points = run.points(key)
    first, latest = points[0][1], points[-1][1]
    ends = key.removesuffix("accuracy") if figure == "accuracy" else f"{key}_"
    low, high = run.points(f"{ends}ci_low"), run.points(f"{ends}ci_high")
    changes: Mapping[str, Any] = run.summary.get("changes", {}).get(name, {})
    change = changes.get(figure)
    cells = [
        figure,
        percent(first),
        percent(latest) if len(points) > 1 else "–",
        f"{percent(low[-1][1])} to {percent(high[-1][1])}" if low and high else "–",
        "–" if change is None else _signed(change["value"]),
        "–" if change is None else f"{_signed(change['low'])} to {_signed(change['high'])}",
    ]
    return (
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _signed(share: float) -> str:
    return ("+" if share > 0 else "") + percent(share)
