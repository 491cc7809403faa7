"""What runs in the session that a test has started (Linux)."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def running_in(session: subprocess.Popen[bytes]) -> dict[int, str]:
    """Command lines, by process id, of all that descends from a process and has not ended.

    The process must have been started with `start_new_session`: a session's members are known even
    when their parents have ended.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session_id, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it has just ended
            continue
        if int(session_id) == session.pid and state != "Z":
            found[int(folder.name)] = command
    return found


def wait_until(condition: Callable[[], object], seconds: float = 240.0) -> None:
    """Waits for a condition; the bound only keeps a broken test from hanging."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true")
        time.sleep(0.02)
