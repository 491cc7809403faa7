"""A real teacher server as a child process, for tests."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from counterhint import ScoringClient


@contextmanager
def serve_teacher(model: Path, folder: Path, arguments: Sequence[str] = ()) -> Iterator[str]:
    """Serves a model on a unix socket in `folder`; gives the address once it answers."""
    address = f"unix://{folder}/teacher.sock"
    command = [sys.executable, "-m", "deploy.cli", "teacher", "serve", "--model", str(model)]
    process = subprocess.Popen(
        [*command, "--listen", address, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    try:
        with ScoringClient(address) as client:
            client.get_teacher(timeout=240)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=240)
