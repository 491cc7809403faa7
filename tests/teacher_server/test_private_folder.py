"""Temporary files of processes that were killed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from teacher_server.private_folder import PREFIX, PrivateFolder

HOLD = """
from teacher_server.private_folder import PrivateFolder
folder = PrivateFolder()
(folder.path / "file").touch()
print(folder.path, flush=True)
input()
"""


def start(folder: Path) -> "tuple[subprocess.Popen[str], Path]":
    """A process that has a folder, and stays; its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_is_removed_and_what_others_hold_is_not(temporary: Path) -> None:
    others = temporary / "other-program"
    others.mkdir()
    target = temporary / "target"
    target.mkdir()
    (temporary / f"{PREFIX}link").symlink_to(target)
    (killed, left), (living, held) = start(temporary), start(temporary)
    killed.kill()
    killed.communicate()
    assert (left / "file").exists()
    folder = PrivateFolder()
    assert not left.exists()
    assert (held / "file").exists()
    assert folder.path.parent == temporary
    assert folder.path.stat().st_mode & 0o777 == 0o700
    living.communicate("\n")
    assert not held.exists()  # removed at the process's end
    folder.close()
    folder.close()
    assert not folder.path.exists()
    assert others.exists()
    assert target.exists()


def test_children_have_their_temporary_files_in_it(temporary: Path) -> None:
    def of_a_child() -> Path:
        ask = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
        return Path(subprocess.check_output(ask, text=True).strip())

    folder, before = PrivateFolder(), of_a_child()
    with folder.for_children():
        assert of_a_child() == folder.path
    assert of_a_child() == before
    folder.close()
