"""Which runs are the same but for their seed, and what each such entry is called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterhint.errors import InputError
from student_trainer.report.run_folder import RunFolder, read_run_folder

_MAY_DIFFER = frozenset(
    {"run_dir", "seed", "resume", "scoring", "monitors", "report", "checkpoint", "metrics"}
)
"""Sections of a recipe that do not change what a run learns, and its seed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Runs with the same settings and different seeds."""

    name: str
    """The method; with what sets it apart where several entries have the same method."""
    runs: Mapping[int, RunFolder]
    """By seed."""


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """The runs of these folders as entries, in the order in which their first runs are given.

    Raises:
        InputError: a folder is no finished run's, or two runs have the same settings and seed.
    """
    settings: list[dict[str, Any]] = []
    runs: list[dict[int, RunFolder]] = []
    for folder in folders:
        run = read_run_folder(folder)
        if not run.summary or not run.recipe:
            raise InputError(
                f"{folder} has no summary.json or no recipe.yaml: only runs that have ended can be "
                "compared"
            )
        found = _settings(run)
        if found not in settings:
            settings.append(found)
            runs.append({})
        of_entry = runs[settings.index(found)]
        seed = int(run.setting("seed"))
        if seed in of_entry:
            raise InputError(
                f"{of_entry[seed].path} and {folder} have the same settings and the same seed "
                f"{seed}: give one of them"
            )
        of_entry[seed] = run
    return [
        Entry(name, dict(sorted(of_entry.items())))
        for name, of_entry in zip(_names(settings), runs, strict=True)
    ]


def _settings(run: RunFolder) -> dict[str, Any]:
    """What decides the outcome, by dotted keys; the teacher's name is one of them."""
    kept = {key: value for key, value in run.recipe.items() if key not in _MAY_DIFFER}
    return {**_flat(kept, ""), "teacher": run.summary.get("teacher")}


def _flat(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = []
    for own in settings:
        kind = own["method.kind"]
        alike = [other for other in settings if other["method.kind"] == kind]
        keys = sorted({key for other in alike for key in other})
        apart = [key for key in keys if any(other.get(key) != own.get(key) for other in alike)]
        names.append(" ".join([kind, *(f"{key}={own.get(key)}" for key in apart)]))
    return names
