"""`compose.yaml` as Docker Compose reads it: variables filled in, services of a profile."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
FILE = REPOSITORY / "compose.yaml"
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+):-(?P<default>[^}]*)\})")
"""`$$`, or a variable in the one form that the file uses."""


def read_variables(file: Path) -> dict[str, str]:
    """An env file's variables."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """A value of the file with its variables filled in; `:-` also replaces empty ones."""

    def fill(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        return variables.get(match["name"]) or match["default"]

    if isinstance(value, dict):
        return {key: filled_in(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [filled_in(item, variables) for item in value]
    return VARIABLE.sub(fill, value) if isinstance(value, str) else value


def content_of(section: str, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """A section of the file (`services`, `secrets`, …) with its variables filled in."""
    content = filled_in(yaml.safe_load(FILE.read_text(encoding="utf-8")), variables)
    section_content: dict[str, dict[str, Any]] = content[section]
    return section_content


def services(profile: str | None, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services that a profile starts; with None, those of every profile."""
    return {
        name: service
        for name, service in content_of("services", variables).items()
        if profile is None or profile in service.get("profiles", [profile])
    }
