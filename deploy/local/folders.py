"""The folders that launchers write to: made new, and never at the cost of somebody's files."""

import shutil
from pathlib import Path

from counterhint.errors import InputError


def check_recipe(recipe: Path) -> None:
    """Refuses a recipe that is not there.

    Raises:
        InputError: there is no such file.
    """
    if not recipe.is_file():
        raise InputError(f"there is no recipe {recipe}: run this from a clone of the code")


def replace_folder(out: Path, marker: str, recipe: Path) -> None:
    """Makes a folder that holds nothing but a marker; one that holds the marker is replaced.

    Args:
        out: the folder.
        marker: name of the file by which the launcher knows its folders again.
        recipe: must not lie in the folder.

    Raises:
        InputError: the folder is not one that the launcher may replace.
    """
    for what, path in (
        ("the recipe", recipe),
        ("the working directory", Path.cwd()),
        ("your home", Path.home()),
    ):
        if path.resolve().is_relative_to(out.resolve()):
            raise InputError(
                f"--out {out} would be replaced, but {what} {path} lies in it: name another folder"
            )
    if claim_folder(out, marker):
        shutil.rmtree(out)
        claim_folder(out, marker)


def claim_folder(out: Path, marker: str) -> bool:
    """Makes a folder with a marker, or takes one that holds it, as it is.

    Returns:
        Whether the folder was there with its marker.

    Raises:
        InputError: the folder holds files but no marker, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: name a folder")
    if (out / marker).is_file():
        return True
    if out.is_dir() and any(out.iterdir()):
        raise InputError(
            f"--out {out} holds files, but no {marker}, so this command did not make it and "
            "leaves it alone: name another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / marker).write_text(
        "`counterhint` made this folder and may replace what is in it when it is given it again.\n",
        encoding="utf-8",
    )
    return False
