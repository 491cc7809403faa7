"""Rollouts in a JSON Lines file: what a line may say, and which lines are of one group.

A run's `rollouts.jsonl` is such a file. Of a large one only the place of each line is kept.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from counterhint.errors import InputError
from student_trainer.hints import Hint


class HintRow(BaseModel):
    """A hint: a solution's text, and its final answer."""

    model_config = ConfigDict(extra="forbid")

    hint: str
    """The solution's text."""
    answer: str = ""
    """Its final answer."""

    def as_hint(self) -> Hint:
        """The same for the prompts."""
        return Hint(self.hint, self.answer)


def _from_text(value: Any) -> Any:
    return {"hint": value} if isinstance(value, str) else value


HintField = Annotated[HintRow, BeforeValidator(_from_text)]


class RolloutRow(BaseModel):
    """One line: a response, and what is known of it. Keys that are not listed here are left alone.

    A line has its own hints (`correct_hint`, `wrong_hints`), or its siblings are its hints, as in
    training: then each line of its group says whether it is `correct`.
    """

    model_config = ConfigDict(extra="ignore")

    problem: str
    """The problem's text."""
    problem_id: str | None = None
    """Lines of one problem are a group; the problem's text where it is absent."""
    response: str | None = None
    """The response's text, which is tokenized; or `token_ids`."""
    token_ids: Annotated[list[int], Field(min_length=1)] | None = None
    """The response's tokens, with the one that ends it."""
    student: list[float | None] | None = None
    """The student's own log probs of `token_ids`."""
    correct: bool | None = None
    """Whether the final answer is right."""
    response_answer: str | None = None
    """The final answer in the response: without one, it is nobody's wrong hint."""
    answer: str = ""
    """The problem's reference answer."""
    advantage: float | None = None
    """The rollout's group-relative advantage."""
    correct_hint: HintField | None = None
    """A text, or an object with `hint` and `answer`."""
    wrong_hints: list[HintField] = []
    """The same, each."""

    @model_validator(mode="before")
    @classmethod
    def _as_a_run_writes_it(cls, row: Any) -> Any:
        """In a run's own file `correct_hint` and `wrong_hints` are log probs, hints have other
        names."""
        if not isinstance(row, Mapping) or "token_classes" not in row:
            return row
        row = {key: row[key] for key in row if key not in ("correct_hint", "wrong_hints")}
        if "hint_texts" not in row:
            return row
        texts, answers = row["hint_texts"], row["hint_answers"]
        wrong = zip(texts["wrong"], answers["wrong"], strict=True)
        row["correct_hint"] = {"hint": texts["correct"], "answer": answers["correct"]}
        row["wrong_hints"] = [{"hint": text, "answer": answer} for text, answer in wrong]
        return row

    @model_validator(mode="after")
    def _check(self) -> "RolloutRow":
        if (self.response is None) == (self.token_ids is None):
            raise ValueError("give either response (text) or token_ids")
        if self.student is not None and len(self.student) != len(self.token_ids or ()):
            raise ValueError(
                f"student has {len(self.student)} log probs, but there are "
                f"{len(self.token_ids or ())} token_ids: it needs one for each"
            )
        if self.wrong_hints and self.correct_hint is None:
            raise ValueError("wrong_hints without correct_hint: give both, or neither")
        return self

    @property
    def group(self) -> str:
        """What lines of one group have in common."""
        return self.problem if self.problem_id is None else self.problem_id


@dataclass(frozen=True, slots=True)
class RolloutFile:
    """A file that was read through once, and found to be right."""

    path: Path
    groups: Sequence[Sequence[tuple[int, int]]]
    """Of each group, in the order of their first lines: number (from 1) and place of its lines."""

    @property
    def rollouts(self) -> int:
        """Lines with a rollout."""
        return sum(map(len, self.groups))

    def read(self, groups: Sequence[int]) -> Iterator[list[tuple[int, RolloutRow]]]:
        """The lines of these groups, with their numbers."""
        with self.path.open("rb") as file:
            for group in groups:
                rows = []
                for number, place in self.groups[group]:
                    file.seek(place)
                    rows.append((number, _parse(self.path, number, file.readline())))
                yield rows


def open_rollouts(path: Path) -> RolloutFile:
    """Reads a file through, so that nothing is scored of one that is wrong further down.

    Raises:
        InputError: there is no such file, it is empty, a line is no rollout, a group's lines are of
            several problems, or siblings are to be hints and a line does not say if it is right.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}: give a JSON Lines file of rollouts")
    groups: dict[str, list[tuple[int, int]]] = {}
    first: dict[str, tuple[int, str, bool]] = {}
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _parse(path, number, line)
                _check_group(path, number, row, first)
                groups.setdefault(row.group, []).append((number, place))
            place += len(line)
    if not groups:
        raise InputError(f"{path} is empty: give a JSON Lines file with a rollout a line")
    return RolloutFile(path, list(groups.values()))


def _parse(path: Path, number: int, line: bytes) -> RolloutRow:
    try:
        return RolloutRow.model_validate(json.loads(line))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise InputError(
            f"{path}, line {number}{': ' if where else ''}{where}: {wrong['msg']}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}, line {number} is no JSON object of a rollout ({error}): write one object a "
            "line, with problem and response"
        ) from error


def _check_group(
    path: Path, number: int, row: RolloutRow, first: dict[str, tuple[int, str, bool]]
) -> None:
    own_hints = row.correct_hint is not None
    begun, problem, others_own = first.setdefault(row.group, (number, row.problem, own_hints))
    if problem != row.problem:
        raise InputError(
            f"{path}, line {number}: problem_id {row.problem_id!r} is that of another problem in "
            f"line {begun}: give each problem an id of its own"
        )
    if own_hints != others_own:
        raise InputError(
            f"{path}, line {number}: of one group, line {begun} has "
            f"{'hints of its own' if others_own else 'none'} and this one "
            f"{'none' if others_own else 'has'}: give all of them hints, or none"
        )
    if not own_hints and row.correct is None:
        raise InputError(
            f"{path}, line {number} has no correct_hint, so its siblings are its hints, but "
            "whether it is correct it does not say either: give correct (true or false), or hints"
        )
