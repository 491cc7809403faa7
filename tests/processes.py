"""Finds every process that descends from a test, however far it has detached itself (Linux)."""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

_VARIABLE = "COUNTERHINT_TEST_MARK"


def marked_environment() -> tuple[str, dict[str, str]]:
    """A fresh mark, and this process's environment with it: all descendants inherit it."""
    mark = uuid.uuid4().hex
    return mark, {**os.environ, _VARIABLE: mark}


def running_with(mark: str) -> dict[int, str]:
    """Command lines, by process id, of the processes that carry the mark and have not ended."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it has just ended, or belongs to somebody else
            continue
        if f"{_VARIABLE}={mark}".encode() in environment and command:
            found[int(folder.name)] = command
    return found


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for a condition; the bound only keeps a broken test from hanging."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true")
        time.sleep(0.02)
