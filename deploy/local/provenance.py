"""What runs and models were made with, noted in their folders, so that they are not made again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from counterhint.errors import InputError

SETTINGS_FILE = "compare.json"
"""In the folder of a run and of the models."""


def read_settings(folder: Path) -> dict[str, Any]:
    """What a folder says that it was made with; empty when it says nothing."""
    file = folder / SETTINGS_FILE
    if not file.is_file():
        return {}
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return settings


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Notes in a folder what it is made with; `settings` as JSON knows them."""
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def file_digests(files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of recipe files and of all that they include, by path.

    Raises:
        InputError: one of them cannot be read.
    """
    found: dict[str, str] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if str(file) in found:
            continue
        if not file.is_file():
            raise InputError(f"there is no file {file}, which a recipe or --set includes")
        content = file.read_bytes()
        found[str(file)] = hashlib.sha256(content).hexdigest()
        try:
            recipe = yaml.safe_load(content)
        except yaml.YAMLError as error:
            raise InputError(f"{file} is not YAML: {error}") from error
        if not isinstance(recipe, dict):
            raise InputError(f"{file} must hold `key: value` lines")
        waiting += [(file.parent / name).resolve() for name in recipe.get("include", [])]
    return found
