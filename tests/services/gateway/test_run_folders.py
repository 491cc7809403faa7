"""Folders of runs that are not as the trainer leaves them."""

import json
import shutil
from pathlib import Path

import pytest

from counterhint.errors import JobNotFound
from services.gateway.run_folders import RunFolders


def write(folder: Path, recipe: bytes) -> None:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 0}) + "\n")
    (folder / "recipe.yaml").write_bytes(recipe)


@pytest.mark.parametrize(
    "recipe", [b"steps: many", b"steps: [3]", b"- steps", b"steps: {", b"\xff: 3", b""]
)
def test_a_recipe_that_is_none_costs_no_more_than_its_settings(
    tmp_path: Path, recipe: bytes
) -> None:
    write(tmp_path / "odd", recipe)
    write(tmp_path / "maths", b"steps: 80")
    steps = {folder.name: folder.setting("steps", int) for folder in RunFolders(tmp_path).all()}
    assert steps == {"odd": None, "maths": 80}


def test_what_was_read_is_kept_for_as_long_as_the_folder_is_there(tmp_path: Path) -> None:
    runs = RunFolders(tmp_path)
    write(tmp_path / "maths", b"steps: 80")
    first = runs.find("maths")
    assert runs.find("maths") is first
    shutil.rmtree(tmp_path / "maths")
    with pytest.raises(JobNotFound):
        runs.find("maths")
    write(tmp_path / "maths", b"steps: 90")
    assert runs.find("maths").setting("steps", int) == 90
