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
        ({"confidence": 1}, "less than 1"),
    ],
)
def test_mistakes_are_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        EvaluationConfig.model_validate(section)
