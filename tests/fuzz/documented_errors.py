"""The reasons that docs/errors.md lists, each with its gRPC status or its HTTP status."""

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
_ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)`")
_HTTP_STATUS = re.compile(r"^\| `([A-Z_]+)` \| (\d{3}(?: or \d{3})*) \|")


@cache
def documented() -> frozenset[tuple[str, str]]:
    """Pairs of status and reason."""
    rows = (_ROW.match(line) for line in PAGE.read_text(encoding="utf-8").splitlines())
    return frozenset((row[2], row[1]) for row in rows if row)


@cache
def documented_over_http() -> frozenset[tuple[int, str]]:
    """Pairs of HTTP status and code: the page says which statuses a gRPC status or a code has."""
    rows = (_HTTP_STATUS.match(line) for line in PAGE.read_text(encoding="utf-8").splitlines())
    statuses = {row[1]: [int(number) for number in row[2].split(" or ")] for row in rows if row}
    of_grpc = {(number, code) for status, code in documented() for number in statuses[status]}
    own = {(number, name) for name, numbers in statuses.items() for number in numbers}
    return frozenset(of_grpc | own)
