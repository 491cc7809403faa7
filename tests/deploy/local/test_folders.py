from pathlib import Path

import pytest

from counterhint.errors import InputError
from deploy.local.folders import claim_folder, replace_folder

MARKER = ".counterhint-demo"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text("seed: 0\n")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_new_run_folder_is_recognisable_at_once(out: Path, recipe: Path) -> None:
    replace_folder(out, MARKER, recipe)
    assert [file.name for file in out.iterdir()] == [MARKER]


def test_an_earlier_demo_is_replaced(out: Path, recipe: Path) -> None:
    replace_folder(out, MARKER, recipe)
    (out / "metrics.jsonl").touch()
    (out / "logs").mkdir()
    replace_folder(out, MARKER, recipe)
    assert [file.name for file in out.iterdir()] == [MARKER]


def test_an_empty_folder_is_taken_and_another_is_not(out: Path, recipe: Path) -> None:
    out.mkdir()
    replace_folder(out, MARKER, recipe)
    (out / MARKER).rename(out / "recipe.yaml")  # a run, but no demo's
    with pytest.raises(InputError, match="did not make it"):
        replace_folder(out, MARKER, recipe)
    assert (out / "recipe.yaml").exists()


@pytest.mark.parametrize("what", ["the recipe", "the working directory", "your home"])
@pytest.mark.parametrize("inside", [".", "folder"])
def test_a_folder_around_what_is_needed_is_not_replaced(
    what: str, inside: str, out: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_folder(out, MARKER, recipe)  # with a marker
    folder = out / inside
    folder.mkdir(exist_ok=True)
    letter = folder / "letter.txt"
    letter.touch()
    if what == "the recipe":
        recipe = letter
    elif what == "the working directory":
        monkeypatch.chdir(folder)
    else:
        monkeypatch.setenv("HOME", str(folder))
    with pytest.raises(InputError, match=f"{what} .* lies in it"):
        replace_folder(out, MARKER, recipe)
    assert letter.exists()


def test_a_file_is_no_run_folder(out: Path) -> None:
    out.touch()
    with pytest.raises(InputError, match="is a file"):
        claim_folder(out, MARKER)


def test_a_claimed_folder_keeps_what_is_in_it(out: Path) -> None:
    assert not claim_folder(out, MARKER)
    (out / "rlcsd").mkdir()
    assert claim_folder(out, MARKER)
    assert (out / "rlcsd").is_dir()
