"""What runs left in their folders, or are leaving there just now."""

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from counterhint.errors import JobNotFound
from services.gateway.growing_rows import GrowingRows

T = TypeVar("T")


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, read as far as the run has come."""

    path: Path
    """The folder."""
    run_id: str | None
    """The run's name in the queue; None where the folder does not say (`run.json`)."""

    @property
    def name(self) -> str:
        """The run's name for people: its folder's."""
        return self.path.name

    @cached_property
    def metrics(self) -> GrowingRows:
        """`metrics.jsonl`: a row a step."""
        return GrowingRows(self.path / "metrics.jsonl")

    @cached_property
    def rollouts(self) -> GrowingRows:
        """`rollouts.jsonl`: some rollouts of some steps."""
        return GrowingRows(self.path / "rollouts.jsonl")

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / "summary.json").is_file()

    @property
    def idle_seconds(self) -> float | None:
        """How long ago the last figures came; None when there are none."""
        try:
            return max(0.0, time.time() - (self.path / "metrics.jsonl").stat().st_mtime)
        except FileNotFoundError:
            return None

    def setting(self, path: str, kind: type[T]) -> T | None:
        """The value at a dotted path of the run's recipe; None where there is none of this type."""
        value: Any = self._recipe
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, kind) else None

    @cached_property
    def _recipe(self) -> Any:
        try:
            return yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}


class RunFolders:
    """The folders of runs in one folder; what was read is kept. For any thread.

    Args:
        root: the folder whose folders are runs.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, RunFolder] = {}
        self.lock = threading.Lock()
        """Held while rows are read."""

    def all(self) -> list[RunFolder]:
        """Every folder that holds figures, the latest first."""
        found: dict[str, float] = {}
        for file in self._root.glob("*/metrics.jsonl"):
            with suppress(FileNotFoundError):  # it may be removed just now
                found[file.parent.name] = file.stat().st_mtime
        with self.lock:
            self._known = {name: self._folder(name) for name in found}
            return sorted(self._known.values(), key=lambda folder: -found[folder.name])

    def find(self, run: str) -> RunFolder:
        """The folder of that name, or of the run that the queue knows by that name.

        Raises:
            JobNotFound: there is none (reason `RUN_NOT_FOUND`).
        """
        for folder in self.all():
            if run in (folder.name, folder.run_id):
                return folder
        raise JobNotFound(
            f"no folder of a run {run!r} is shown here",
            reason="RUN_NOT_FOUND",
            details={"run": run},
        )

    def _folder(self, name: str) -> RunFolder:
        """The folder as it is known, unless another run has begun in it."""
        path = self._root / name
        run_id = _run_id(path)
        known = self._known.get(name)
        return known if known and known.run_id == run_id else RunFolder(path, run_id)


def _run_id(path: Path) -> str | None:
    try:
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    run_id = facts.get("run_id") if isinstance(facts, dict) else None
    return run_id if isinstance(run_id, str) else None
