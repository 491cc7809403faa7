from pathlib import Path

import pytest

from tests.student_trainer.comparison.compared_runs import BOTH_SIGNALS, SIGNALS, write_run


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two seeds each of grpo (0.6, 0.8), opsd (0.3, 0.4) and rlcsd (0.9, 0.7)."""
    return [
        write_run(
            tmp_path / method / f"seed-{seed}",
            method=method,
            seed=seed,
            accuracy=accuracy,
            signals=signals,
        )
        for method, accuracies, signals in (
            ("grpo", (0.6, 0.8), None),
            ("opsd", (0.3, 0.4), SIGNALS),
            ("rlcsd", (0.9, 0.7), BOTH_SIGNALS),
        )
        for seed, accuracy in enumerate(accuracies)
    ]
