import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from student_trainer.tasks import (
    ChainTaskConfig,
    FileTaskConfig,
    ReasoningGymTaskConfig,
    TaskConfig,
)

adapter: TypeAdapter[TaskConfig] = TypeAdapter(TaskConfig)


def test_kind_selects_the_task() -> None:
    assert adapter.validate_python({"kind": "chain"}) == ChainTaskConfig()
    assert adapter.validate_python(
        {"kind": "reasoning_gym", "name": "chain_sum", "options": {"min_terms": 2}}
    ) == ReasoningGymTaskConfig(name="chain_sum", options={"min_terms": 2})
    assert adapter.validate_python(
        {"kind": "files", "train": "a.jsonl", "heldout": "b.jsonl", "verifier": "boxed_math"}
    ) == FileTaskConfig(train=Path("a.jsonl"), heldout=Path("b.jsonl"), verifier="boxed_math")


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="'chain', 'reasoning_gym', 'files'"):
        adapter.validate_python({"kind": "riddles"})


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="nmae"):
        adapter.validate_python({"kind": "reasoning_gym", "nmae": "chain_sum"})


def test_importing_the_tasks_loads_nothing_heavy() -> None:
    script = (
        "import sys, student_trainer.tasks; "
        "print(sorted({'torch', 'pyarrow', 'sympy', 'math_verify', 'reasoning_gym'} "
        "& sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
