"""Whole runs whose rollouts vLLM samples: what it drew must be what the trainer updates."""

from pathlib import Path
from typing import Any

import pytest

from student_trainer.monitors import read_rows
from student_trainer.recipe import Recipe
from student_trainer.trainer import Trainer
from tests.student_trainer.chain_student import write_chain_student
from tests.student_trainer.rollouts.vllm_processes import (
    CPU_ENVIRONMENT,
    ENGINE_ARGS,
    HEAD,
    SamplingServer,
)

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def chain_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random student of the chain task, with heads that vLLM's attention takes."""
    folder = tmp_path_factory.mktemp("student")
    return write_chain_student(folder, width=2 * HEAD, heads=2, kv_heads=2)


def train(model: Path, run_dir: Path, sampler: dict[str, Any], max_staleness: int) -> list[Any]:
    """Takes four steps, and gives the rows of their metrics."""
    recipe = Recipe.model_validate(
        {
            "run_dir": run_dir,
            "steps": 4,
            "task": {"kind": "chain", "operations": 2},
            "student": {"model": model, "device": "cpu"},
            # A random model answers rarely: groups are large, so that some are mixed.
            "rollouts": {
                "prompts_per_step": 3,
                "group_size": 64,
                "max_new_tokens": 60,
                "sampler": sampler,
                "max_staleness": max_staleness,
            },
            "rollout_is": {"level": "token"},
            "method": {"kind": "grpo"},
            "optimizer": {"lr": 1e-3},
            "evaluation": {"problems": 8},
            "checkpoint": {"every": 4},
        }
    )
    with Trainer(recipe) as trainer:
        trainer.run()
    return [row for row in read_rows(run_dir / "metrics.jsonl") if row["step"] > 0]


def test_a_run_that_samples_in_process(
    chain_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CPU_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    sampler = {"kind": "vllm", "engine_args": ENGINE_ARGS | {"max_model_len": 256}}
    rows = train(chain_student, tmp_path / "run", sampler, max_staleness=0)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert sum(row["rollout/mixed_groups"] for row in rows) > 0
    for row in rows:
        assert row["staleness/max"] == 0
        # Sampler and trainer agree on every token, after each update anew.
        assert row["importance/max"] == pytest.approx(1, abs=1e-3)
        assert row["importance/mean"] == pytest.approx(1, abs=1e-4)
        # vLLM gives no entropies: the trainer takes them from its own pass.
        assert row["rollout/entropy"] > 0


def test_a_run_that_samples_ahead_on_a_server(chain_student: Path, tmp_path: Path) -> None:
    with SamplingServer(chain_student) as server:
        sampler = {
            "kind": "vllm_server",
            "addresses": [server.address],
            "weights_dir": server.weights_dir,
        }
        rows = train(chain_student, tmp_path / "run", sampler, max_staleness=1)
        assert [row["staleness/max"] for row in rows] == [0, 1, 1, 1]
        assert rows[0]["importance/max"] == pytest.approx(1, abs=1e-3)
        learned = [row["rollout/mixed_groups"] > 0 for row in rows[:-1]]
        assert any(learned)
        assert max(row["importance/max"] for row in rows[1:]) > 1.001
        assert not list(server.weights_dir.iterdir())
