from pathlib import Path

import pytest

from tests.student_trainer.report.run_folders import write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished RLCSD run of 60 steps, with an evaluation every 10 and 24 rollouts kept."""
    return write_run(tmp_path / "demo")
