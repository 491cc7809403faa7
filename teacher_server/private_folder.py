"""A folder for one process's temporary files, which does not outlive it by long.

A process that is killed cannot remove its files. So each holds a lock on its folder, which the
system takes back with the process, and the next one that makes a folder removes those that nobody
holds any more.
"""

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "counterhint-teacher-"


class PrivateFolder:
    """A new folder beside other temporary files, removed by `close`, at the process's end or, where
    this was killed, by the next process that makes one (Linux)."""

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_if_left(left)
        self.path, held = _make()
        self._finalizer = weakref.finalize(self, _remove, self.path, held)

    @contextmanager
    def for_children(self) -> Iterator[None]:
        """Processes that are started inside the block have their temporary files in it."""
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(self.path)
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before

    def close(self) -> None:
        """Removes it; more than once does no harm."""
        self._finalizer()


def _make() -> tuple[Path, int]:
    """A folder, and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Before it is locked, another process may take it for one that was left.
        with suppress(FileNotFoundError):
            held = os.open(path, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
            if path.exists():
                return path, held
            os.close(held)


def _remove_if_left(path: Path) -> None:
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's, no folder, or just removed
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
    else:
        _remove(path, held)


def _remove(path: Path, held: int) -> None:
    shutil.rmtree(path, ignore_errors=True)  # vLLM's processes may be ending in it
    os.close(held)
