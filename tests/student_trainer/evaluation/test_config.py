from typing import Any

import pytest
from pydantic import ValidationError

from student_trainer.evaluation import EvaluationConfig


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"samples": 4, "pass_at": [1, 8]}, "pass_at holds 8.*samples is 4"),
        ({"pass_at": [0]}, "pass_at holds 0"),
        ({"samples": 4, "temperature": 0}, "at temperature 0 all 4 samples"),
        ({"sets": {"heldout": {"task": {"kind": "chain"}}}}, "cannot be called 'heldout'"),
        ({"sets": {"a/b": {"task": {"kind": "chain"}}}}, "cannot be called 'a/b'"),
        ({"sets": {"x": {"task": {"kind": "chain"}, "every": 3}}}, "sets.x.every"),
        (
            {
                "samples": 4,
                "pass_at": [4],
                "sets": {"x": {"task": {"kind": "chain"}, "samples": 2}},
            },
            "sets.x: .*pass_at holds 4",
        ),
        ({"confidence": 1}, "less than 1"),
    ],
)
def test_mistakes_are_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        EvaluationConfig.model_validate(section)


def test_sets_take_what_they_leave_out_from_the_section() -> None:
    task = {"kind": "chain"}
    config = EvaluationConfig.model_validate(
        {
            "samples": 12,
            "temperature": 0.6,
            "pass_at": [12],
            "sets": {"same": {"task": task}, "other": {"task": task, "samples": 1, "pass_at": []}},
        }
    )
    assert config.sampling("same") == config.sampling("heldout")
    other = config.sampling("other")
    assert (other.samples, other.temperature, other.pass_at) == (1, 0.6, ())
