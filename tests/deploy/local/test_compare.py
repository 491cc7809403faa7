import io
from pathlib import Path

import pytest
from rich.console import Console

from counterhint.errors import InputError
from deploy.local.compare import run_compare
from deploy.local.compare_plan import plan_comparison


def test_a_folder_of_somebody_elses_files_is_left_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "my.yaml"
    recipe.write_text("seed: 0\n")
    letter = tmp_path / "out" / "letter.txt"
    letter.parent.mkdir()
    letter.touch()
    plan = plan_comparison(
        recipe=recipe,
        out=letter.parent,
        methods=["grpo"],
        seeds=[0],
        steps=None,
        teacher=None,
        settings=[],
        parallel=1,
    )
    with pytest.raises(InputError, match="did not make it"):
        run_compare(plan, Console(file=io.StringIO()))
    assert list(letter.parent.iterdir()) == [letter]
