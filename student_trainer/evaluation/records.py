"""Evaluations on disk: one JSON object a line, as in a run's `evaluations.jsonl`."""

from pathlib import Path

from counterhint.errors import InputError
from student_trainer.evaluation.results import Evaluations
from student_trainer.monitors.jsonl import JsonlFile, read_rows


class EvaluationLog:
    """The evaluations of a run, in memory and in a file.

    Args:
        path: by convention `evaluations.jsonl` in the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = JsonlFile(path)
        self._entries: list[tuple[int, Evaluations]] = []

    def start(self, resumed_step: int | None = None) -> None:
        """Opens the file, for a new run empty, for a resumed one with the rows up to that step.

        Raises:
            InputError: a resumed run's file is damaged, or lacks the run's first evaluation.
        """
        self._file.start(resumed_step)
        self._entries = _read(self._path)
        if resumed_step is not None and not self._entries:
            raise InputError(
                f"{self._path} holds no evaluation of the run that is to be resumed: put the file "
                "back, or start the run anew in another folder"
            )

    def append(self, step: int, evaluations: Evaluations) -> None:
        """Adds the evaluation after `step` steps."""
        self._file.append({"step": step, **evaluations.record()})
        self._entries.append((step, evaluations))

    @property
    def first(self) -> tuple[int, Evaluations]:
        """The step of the run's first evaluation, and the evaluation."""
        return self._entries[0]

    @property
    def last(self) -> tuple[int, Evaluations]:
        """The step of its latest evaluation, and the evaluation."""
        return self._entries[-1]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_evaluations(path: Path) -> list[tuple[int, Evaluations]]:
    """The evaluations of a file with the steps that they were made after; at least one.

    Args:
        path: a run's `evaluations.jsonl`, or what `counterhint eval --out` wrote.

    Raises:
        InputError: no such file, no evaluation in it, or a line that is none.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}: give a run's evaluations.jsonl")
    entries = _read(path)
    if not entries:
        raise InputError(f"{path} holds no evaluation")
    return entries


def _read(path: Path) -> list[tuple[int, Evaluations]]:
    entries = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            entries.append((int(row["step"]), Evaluations.from_record(row)))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number} is no evaluation ({error!r}): give a run's "
                "evaluations.jsonl"
            ) from error
    return entries
