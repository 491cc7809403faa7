"""What a monitor is: something that is told how a training run goes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from counterhint.errors import InputError


class Monitor(ABC):
    """Follows one run: `start` once, `progress` and `log` step by step, `close` once.

    Used as a context manager, a monitor closes itself whatever ends the run.
    """

    @abstractmethod
    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Begin a run.

        Args:
            recipe: The resolved recipe.
            total_steps: The step after which the run ends.
            resumed_step: The last step that the checkpoint holds when a run goes on; what was
                recorded after it is dropped, since those steps are taken again. None for a new
                run, which replaces all records of an earlier one in the same place.
        """

    @abstractmethod
    def log(self, row: Mapping[str, float]) -> None:
        """Record one step.

        Args:
            row: `step` and the figures that apply to it, by the keys of `metrics.jsonl`. Step 0
                holds the evaluation before training.
        """

    def progress(self, stage: str, done: int, total: int) -> None:  # noqa: B027
        """Show how far a stage of the step under way is. Monitors that only record ignore it.

        Args:
            stage: What is done now, for example `sampling`.
            done: How many of its parts are finished.
            total: How many parts it has.
        """

    @abstractmethod
    def close(self) -> None:
        """End the run's records. Closing twice, or before `start`, does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Monitors(Monitor):
    """Several monitors as one; each call goes to them in the order given, `close` in reverse."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._monitors = tuple(monitors)

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Start each monitor."""
        for monitor in self._monitors:
            monitor.start(recipe, total_steps, resumed_step)

    def log(self, row: Mapping[str, float]) -> None:
        """Give the row to each monitor."""
        for monitor in self._monitors:
            monitor.log(row)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Give the progress to each monitor."""
        for monitor in self._monitors:
            monitor.progress(stage, done, total)

    def close(self) -> None:
        """Close each monitor."""
        for monitor in reversed(self._monitors):
            monitor.close()


def require_package(name: str) -> None:
    """Checks that the package behind a monitor is there, without importing it.

    Raises:
        InputError: it is not; with the command that installs it.
    """
    if find_spec(name) is None:
        raise InputError(
            f"monitors.{name} needs the package {name}: pip install 'counterhint[{name}]', or "
            "remove the section"
        )
