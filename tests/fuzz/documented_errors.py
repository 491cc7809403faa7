"""The reasons that docs/errors.md lists, each with its gRPC status."""

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
_ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)`")


@cache
def documented() -> frozenset[tuple[str, str]]:
    """Pairs of status and reason."""
    rows = (_ROW.match(line) for line in PAGE.read_text(encoding="utf-8").splitlines())
    return frozenset((row[2], row[1]) for row in rows if row)
