"""The worker that makes and scores reasoning-gym problems.

Both happen here because a score needs the entry as it was made (its metadata does not survive JSON)
and because some tasks evaluate the answer as Python code.
"""

import dataclasses
import difflib
import functools
import json
from typing import Any

from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import DATASETS, create_dataset

from student_trainer.verifiers.worker import serve


def handle(
    name: str, options: dict[str, Any], size: int, seed: int, index: int, answer: str | None = None
) -> dict[str, Any] | float:
    """Make the problem at `index` of a data set, or score an answer to it.

    Returns:
        Without `answer`, the `text`, `answer` and `solution` of the problem. With it, the score
        that the data set gives it, 1.0 for a right answer.

    Raises:
        ValueError: No such task, or options that it does not take.
    """
    options_json = json.dumps(options, sort_keys=True)
    if answer is None:
        entry = _entry(name, options_json, size, seed, index)
        return {
            "text": entry["question"],
            "answer": "" if entry["answer"] is None else str(entry["answer"]),
            "solution": entry["metadata"].get("answer_cot"),
        }
    dataset = _dataset(name, options_json, size, seed)
    entry = _entry(name, options_json, size, seed, index)
    try:
        return float(dataset.score_answer(answer, entry))
    except (Exception, SystemExit):
        # Many data sets parse the answer without a guard: what they choke on is a wrong answer.
        return 0.0


@functools.lru_cache(maxsize=16)
def _dataset(name: str, options_json: str, size: int, seed: int) -> Any:
    options = json.loads(options_json)
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=3)
        raise ValueError(
            f"task.name {name!r} is none of reasoning-gym's {len(DATASETS)} tasks"
            + (f": did you mean {' or '.join(near)}?" if near else "; its gallery lists them")
        )
    known = {field.name for field in dataclasses.fields(DATASETS[name][1])} - {"size", "seed"}
    for option in options:
        if option not in known:
            raise ValueError(
                f"task.options.{option} is no option of reasoning-gym's {name}: "
                f"it takes {', '.join(sorted(known))}"
            )
    try:
        if name == "composite":
            options["datasets"] = [DatasetSpec(**spec) for spec in options.get("datasets", [])]
        return create_dataset(name, **options, size=size, seed=seed)
    except (AssertionError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(_refused(name, options_json, error)) from error


@functools.lru_cache(maxsize=1024)
def _entry(name: str, options_json: str, size: int, seed: int, index: int) -> dict[str, Any]:
    dataset = _dataset(name, options_json, size, seed)
    try:
        entry: dict[str, Any] = dataset[index]
    except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Few data sets check their options in full: the rest shows at the first problem.
        raise ValueError(_refused(name, options_json, error)) from error
    return entry


def _refused(name: str, options_json: str, error: Exception) -> str:
    return f"reasoning-gym's {name} does not work with task.options {options_json}: {error}"


if __name__ == "__main__":
    serve(handle)
