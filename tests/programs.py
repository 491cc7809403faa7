"""Programs that tests start, and that `make setup-programs` installs."""

import os
import shutil
import sys
from pathlib import Path

import pytest

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
"""Where they are looked for: in this environment first."""


def program(name: str) -> str:
    """Where a program is.

    Skips the test where it is not installed. With `CI` set, as `.ci/run` does, the test fails.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        missing = f"{name} is not installed: make setup-programs"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
