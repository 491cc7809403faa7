"""Problems from JSONL or Parquet files.

Each line or row holds `problem` and `answer`, optionally `solution` (a worked solution, used as a
hint by `gt_cot`) and `id`. Other columns are ignored. The files are read whole when the task is
built, and every line is checked.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.tasks.base import Problem, Task, Verdict
from student_trainer.tasks.split import is_heldout, problem_digest
from student_trainer.verifiers.base import Verifier
from student_trainer.verifiers.boxed_math import BoxedMath
from student_trainer.verifiers.knights_knaves import KnightsKnaves

VERIFIERS: dict[str, type[Verifier]] = {"boxed_math": BoxedMath, "knights_knaves": KnightsKnaves}


class DataFileError(InputError):
    """A data file that cannot be used: which one, where in it, what is wrong and the remedy."""


class FileTaskConfig(Config):
    """Problems from files; the held-out set has its own file or is a share of the training file."""

    kind: Literal["files"] = "files"
    train: Path | None = None
    """A `.jsonl` or `.parquet` file with the training problems; None where problems are only
    evaluated on."""
    heldout: Path | None = None
    """A file with the held-out problems. Give this or `heldout_fraction`."""
    heldout_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the problems in `train` to hold out, chosen by a hash of the problem's text."""
    verifier: Literal["boxed_math", "knights_knaves"]
    """How an answer is found and compared: `boxed_math` (last `\\boxed{}`, math-verify) or
    `knights_knaves` (roles by name)."""
    seed: int = 0
    """Seed of the order of the training problems, which is a new one in each pass over them."""

    @model_validator(mode="after")
    def _one_source_of_heldout_problems(self) -> Self:
        if (self.heldout is None) == (self.heldout_fraction is None):
            raise InputError(
                "task.heldout (a file) and task.heldout_fraction (for example 0.1) are two ways to "
                "say which problems are held out: set exactly one of them"
            )
        if self.train is None and self.heldout is None:
            raise InputError("task.heldout_fraction is a share of task.train: name that file")
        return self

    def build(self) -> "FileTask":
        """Read and check the files.

        Raises:
            DataFileError: A file is missing, broken, or shows a held-out problem to training.
        """
        return FileTask(self)


class FileTask(Task):
    """Problems of a fixed data set, each pass over the training problems in a new order."""

    def __init__(self, config: FileTaskConfig) -> None:
        self.config = config
        self._verifier = VERIFIERS[config.verifier]()
        self.answer_format = self._verifier.answer_format
        train = [] if config.train is None else _read(config.train, self._verifier)
        if config.heldout_fraction is not None:
            sides: tuple[list[_Row], list[_Row]] = ([], [])
            for row in train:
                sides[is_heldout(row.problem.text, config.heldout_fraction)].append(row)
            train, heldout = sides
        else:
            assert config.heldout is not None
            heldout = _read(config.heldout, self._verifier)
            _refuse_shared_problems(train, heldout)
        if not train and config.train is not None:
            raise DataFileError(
                f"{config.train} leaves no problem to train on: add problems or set a lower "
                "task.heldout_fraction"
            )
        self._train = [row.problem for row in train]
        # A second copy of a problem would only count it twice.
        self._heldout = list({row.digest: row.problem for row in heldout}.values())
        self.heldout_count = len(self._heldout)
        self._order: tuple[int, list[int]] = (-1, [])

    def train_problem(self, index: int) -> Problem:
        """The training problem at `index` ≥ 0; after the last one the next pass begins.

        Raises:
            InputError: The task has no training file.
        """
        if not self._train:
            raise InputError("task.train is missing: name the file with the training problems")
        epoch, position = divmod(index, len(self._train))
        if self._order[0] != epoch:
            order = list(range(len(self._train)))
            random.Random(f"{self.config.seed}/{epoch}").shuffle(order)
            self._order = epoch, order
        return self._train[self._order[1][position]]

    def heldout_problems(self, count: int) -> Sequence[Problem]:
        """The first `count` held-out problems, in the order of the file."""
        if count > len(self._heldout):
            raise InputError(
                f"{count} held-out problems were asked for, but "
                f"{self.config.heldout or self.config.train} gives only {len(self._heldout)}: ask "
                "for fewer or add problems"
            )
        return self._heldout[:count]

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Grade one response by the configured verifier."""
        answer = self._verifier.find_answer(response)
        correct = answer is not None and self._verifier.is_correct(answer, problem.answer)
        return Verdict(correct, answer)


@dataclass(frozen=True, slots=True)
class _Row:
    problem: Problem
    digest: str
    place: str
    """Line or row and file, for messages."""


def _read(path: Path, verifier: Verifier) -> list[_Row]:
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix)
    if reader is None:
        raise DataFileError(f"{path} is neither a .jsonl nor a .parquet file: convert it to one")
    if not path.is_file():
        raise DataFileError(f"{path} does not exist: correct the path in the recipe's task section")
    rows: list[_Row] = []
    places_by_id: dict[str, str] = {}
    for place, record in reader(path):
        row = _check(place, record, verifier)
        taken = places_by_id.setdefault(row.problem.id, place)
        # Problems without an id are named by their text, so that copies share a name.
        if taken != place and row.problem.id != row.digest:
            raise DataFileError(
                f"{place} has the same id {row.problem.id!r} as {taken}: make ids unique or leave "
                "them out"
            )
        rows.append(row)
    if not rows:
        raise DataFileError(f"{path} holds no problems: add some or name another file")
    return rows


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"line {number} of {path}"
            if not line.strip():
                continue
            try:
                record = json.loads(line.rstrip().decode())
            except UnicodeDecodeError as error:
                raise DataFileError(f"{place} is not UTF-8: save the file as UTF-8") from error
            except json.JSONDecodeError as error:
                raise DataFileError(
                    f"{place} is not JSON ({error.msg} at column {error.colno}): write one JSON "
                    "object per line"
                ) from error
            except (ValueError, RecursionError) as error:
                raise DataFileError(f"{place} cannot be read as JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataFileError(
                    f"{place} is no JSON object: write "
                    '{"problem": "…", "answer": "…"} on each line'
                )
            yield place, record


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    # Here, so that a run without Parquet files starts without Arrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        columns = [name for name in ("problem", "answer", "solution", "id") if name in names]
        records = file.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{path} is no readable Parquet file: {error}") from error
    for name in ("problem", "answer"):
        if name not in names:
            raise DataFileError(
                f"{path} has no column {name!r}, only {', '.join(names)}: rename the column that "
                "holds it"
            )
    for number, record in enumerate(records, start=1):
        yield f"row {number} of {path}", record


def _check(place: str, record: dict[str, object], verifier: Verifier) -> _Row:
    """The problem of one record, or an error that says what is wrong with it."""
    # A Parquet row has every column: null is how it leaves one out.
    record = {key: value for key, value in record.items() if value is not None}
    text = _text(place, record, "problem")
    answer = _text(place, record, "answer")
    solution = _text(place, record, "solution") if "solution" in record else None
    digest = problem_digest(text)
    id_ = _text(place, record, "id") if "id" in record else digest
    try:
        verifier.check_reference(answer)
    except ValueError as error:
        raise DataFileError(f"{place} has an answer of no use, {answer!r}: {error}") from error
    return _Row(Problem(id=id_, text=text, answer=answer, solution=solution), digest, place)


def _text(place: str, record: dict[str, object], key: str) -> str:
    if key not in record:
        raise DataFileError(f"{place} has no {key!r}: add it")
    value = record[key]
    # Whole numbers have one way to be written; 0.10 and 0.1, or true and True, do not.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataFileError(
            f"{place} has a {key!r} that is {type(value).__name__}, not text: write it in quotes"
        )
    if not value.strip():
        raise DataFileError(f"{place} has an empty {key!r}: fill it in or take the line out")
    return value


def _refuse_shared_problems(train: Sequence[_Row], heldout: Sequence[_Row]) -> None:
    train_places = {row.digest: row.place for row in train}
    for row in heldout:
        if row.digest in train_places:
            raise DataFileError(
                f"{row.place} holds the same problem as {train_places[row.digest]}: take it "
                "out of one of the two, so that no held-out problem is trained on"
            )
