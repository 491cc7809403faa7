"""What the page shows of each run: as many steps and rollouts as one file can hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from counterhint.errors import InputError
from counterhint.views.rollouts import rollouts_reply
from student_trainer.report.formatting import number
from student_trainer.report.outcome import Outcome, read_outcome
from student_trainer.report.run_folder import RunFolder, read_run_folder

MAX_TOKENS = 60_000
"""Tokens of all rollouts in one report: about 6 MB of page."""
MAX_STEPS = 4_000
"""Steps of all runs in one report: about 2 MB of page."""
_DIGITS = 5
_PER_TOKEN = (
    *("token_ids", "token_classes", "student", "correct_hint", "e_c", "e_ctr"),
    *("selected", "modulated"),
)


@dataclass(frozen=True)
class ShownRun:
    """A run as the page shows it."""

    name: str
    """Unlike that of the other runs on the page."""
    run: RunFolder
    steps: list[dict[str, Any]]
    """Rows of `metrics.jsonl` that are drawn."""
    rollouts: list[dict[str, Any]]
    """Rows of `rollouts.jsonl` that are shown."""

    @cached_property
    def outcome(self) -> Outcome:
        """The figures at its head."""
        return read_outcome(self.run)

    @property
    def left_out(self) -> list[str]:
        """What the page does not hold for want of room, in words."""
        words = []
        if len(self.steps) < len(self.run.metrics):
            words.append(
                f"{number(len(self.steps))} of the {number(len(self.run.metrics))} steps are "
                "drawn, evenly spread, among them all evaluations; the others are in metrics.jsonl."
            )
        if len(self.rollouts) < len(self.run.rollouts):
            words.append(
                f"{number(len(self.rollouts))} of the {number(len(self.run.rollouts))} rollouts "
                "kept are shown, evenly spread over the run; the others are in rollouts.jsonl."
            )
        return words

    def data(self) -> dict[str, Any]:
        """The run as the page's script reads it.

        `figures` are columns of `metrics.jsonl`, `rollouts` has the shape of a score reply. A
        missing value is null.

        Raises:
            InputError: `rollouts.jsonl` is damaged.
        """
        for row in self.rollouts:
            _check(row, self.run.path / "rollouts.jsonl")
        names = dict.fromkeys(name for row in self.steps for name in row)
        reply = _compact(rollouts_reply(self.rollouts))
        return {
            "name": self.name,
            "method": self.outcome.method,
            "step": self.outcome.steps,
            "steps": self.run.setting("steps"),
            "figures": {name: [_compact(row.get(name)) for row in self.steps] for name in names},
            "rollouts": reply,
        }


def read_shown_runs(folders: Sequence[Path]) -> list[ShownRun]:
    """Read runs for one page, which has room for so much of each.

    Raises:
        InputError: A folder is given twice, is no run's, or one of its files is damaged.
    """
    runs = [read_run_folder(folder) for folder in folders]
    return [
        ShownRun(
            name,
            run,
            choose_steps(run.metrics, MAX_STEPS // len(runs)),
            choose_rollouts(run.rollouts, MAX_TOKENS // len(runs)),
        )
        for name, run in zip(run_names(folders), runs, strict=True)
    ]


def run_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of their paths as tells them apart.

    Raises:
        InputError: A folder is given twice.
    """
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"{path} is given twice: give each run's folder once")
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def choose_steps(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """All steps when they fit, else evenly spread ones with both ends and all evaluations."""
    if len(rows) <= most:
        return rows
    kept = {index * len(rows) // most for index in range(most)} | {0, 1, len(rows) - 1}
    return [row for index, row in enumerate(rows) if index in kept or "eval/accuracy" in row]


def choose_rollouts(rows: list[dict[str, Any]], most_tokens: int) -> list[dict[str, Any]]:
    """All rollouts when they fit, else ones evenly spread over the run; one however long it is."""
    total = sum(len(row.get("tokens", ())) for row in rows)
    if total <= most_tokens:
        return rows
    count = max(1, len(rows) * most_tokens // total)
    return [rows[index * len(rows) // count] for index in range(count)]


def _check(row: Mapping[str, Any], path: Path) -> None:
    where = f"{path}, step {row['step']}"
    if not isinstance(row.get("tokens"), list) or not isinstance(row.get("token_ids"), list):
        raise InputError(f"{where}: a rollout has no lists `tokens` and `token_ids`: remove it")
    columns = {key: row[key] for key in _PER_TOKEN if row.get(key) is not None}
    for place, branch in enumerate(row.get("wrong_hints") or ()):
        columns[f"wrong_hints[{place}]"] = branch
    for key, values in columns.items():
        if len(values) != len(row["tokens"]):
            raise InputError(
                f"{where}: {len(values)} values of {key} for {len(row['tokens'])} tokens: remove "
                "the rollout"
            )


def _compact(value: Any) -> Any:
    """Numbers at five significant digits, to keep the page small; what is not finite is missing."""
    if isinstance(value, dict):
        return {key: _compact(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_compact(one) for one in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") + 0.0 if math.isfinite(value) else None  # no -0.0
