"""Reading what a run left in its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from counterhint.errors import InputError
from student_trainer.monitors.jsonl import read_rows


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What a run recorded; whatever it has not recorded (yet) is empty."""

    path: Path
    recipe: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    """Rows of `metrics.jsonl`."""
    rollouts: list[dict[str, Any]]
    """Rows of `rollouts.jsonl`."""
    summary: Mapping[str, Any]
    """Content of `summary.json`, which a run writes at its end."""

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.path.resolve().name

    def setting(self, path: str) -> Any:
        """The value at a dotted path of the recipe, None where the recipe has no such key."""
        value: Any = self.recipe
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def points(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of each step that recorded this metric."""
        return [(row["step"], float(row[key])) for row in self.metrics if key in row]


def read_run_folder(path: Path) -> RunFolder:
    """Read a run's folder.

    Raises:
        InputError: There is no such folder, it holds no metrics, or one of its files is damaged.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: give the folder of a run, for example runs/demo")
    metrics_file = path / "metrics.jsonl"
    metrics = read_rows(metrics_file) if metrics_file.exists() else []
    if not metrics:
        raise InputError(
            f"{path} holds no steps (metrics.jsonl is missing or empty): give the folder of a run, "
            "which `counterhint train` names at its start"
        )
    rollouts_file = path / "rollouts.jsonl"
    return RunFolder(
        path=path,
        recipe=_read_mapping(path / "recipe.yaml", yaml.safe_load, yaml.YAMLError),
        metrics=metrics,
        rollouts=read_rows(rollouts_file) if rollouts_file.exists() else [],
        summary=_read_mapping(path / "summary.json", json.loads, ValueError),
    )


def _read_mapping(path: Path, parse: Any, parse_error: type[Exception]) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except parse_error as error:
        raise InputError(f"{path} cannot be read ({error}): mend or remove the file") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must hold names with values: mend or remove the file")
    return content
