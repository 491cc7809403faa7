"""Training in processes of its own: killed at any moment, asked to stop, divided over ranks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from student_trainer.monitors import read_rows
from student_trainer.recipe import load_recipe
from student_trainer.trainer import Trainer
from tests.processes import wait_until
from tests.teacher_process import serve_teacher

STEPS = 6


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def teacher(student_folder: Path, workplace: Path) -> Iterator[str]:
    with serve_teacher(student_folder, workplace, ("--weights-root", str(workplace))) as address:
        yield address


@pytest.fixture(scope="module")
def recipe(student_folder: Path, workplace: Path, teacher: str) -> Path:
    template = workplace / "hint.txt"
    template.write_text("{{problem}} reference {{hint}} end")
    content = {
        "run_dir": str(workplace / "run"),
        "steps": STEPS,
        "task": {"kind": "chain", "operations": 2},
        "student": {"model": str(student_folder), "device": "cpu"},
        "prompts": {"hint_template": str(template)},
        "rollouts": {"prompts_per_step": 4, "group_size": 32, "max_new_tokens": 40, "max_rows": 64},
        "method": {"kind": "rlcsd"},
        "scoring": {"address": teacher},
        "optimizer": {"lr": 1e-3},
        "evaluation": {"problems": 4},
        "checkpoint": {"every": 2, "keep": 2},
        "teacher_refresh": {"kind": "ema", "decay": 0.9, "every": 1},
        "rollout_is": {"level": "token"},
        "stop_after_unmixed_steps": STEPS,
    }
    file = workplace / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def start(
    recipe: Path, run_dir: Path, *settings: str, launcher: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    command = launcher or [sys.executable, "-m", "deploy.cli"]
    return subprocess.Popen(
        [*command, "train", str(recipe), f"run_dir={run_dir}", *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> int:
    _, errors = process.communicate(timeout=240)
    if process.returncode not in (0, 143):
        print(errors.decode())
    return process.returncode


def run_here(recipe: Path, run_dir: Path, *settings: str) -> None:
    """Runs to the end in this process, as a process of its own would, without the seconds that
    starting one takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Trainer(load_recipe(recipe, [f"run_dir={run_dir}", *settings], {})) as trainer:
            trainer.run()
    finally:
        torch.set_num_threads(threads)


def wait_for_step(process: subprocess.Popen[bytes], run_dir: Path, step: int) -> None:
    def there() -> bool:
        ended = process.poll() is not None  # before looking, so that its last steps are seen
        if steps_of(run_dir) >= step:
            return True
        if ended:
            raise AssertionError(f"the run ended early: {process.communicate()[1].decode()}")
        return False

    wait_until(there)


def final_tensors(run_dir: Path, steps: int) -> dict[str, torch.Tensor]:
    """Parameters, the optimizer's state and the teacher's average after so many steps."""
    checkpoint = run_dir / "checkpoints" / f"step-{steps:06d}"
    files = sorted(checkpoint.glob("*.safetensors"))
    return {f"{file.name}/{name}": t for file in files for name, t in load_file(file).items()}


def assert_same(first: Path, second: Path, steps: int = STEPS) -> None:
    a, b = final_tensors(first, steps), final_tensors(second, steps)
    assert a.keys() == b.keys()
    assert any("optimizer" in name for name in a)
    assert any("teacher" in name for name in a)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(scope="module", params=[0, 1], ids=["synchronous", "staleness-1"])
def undisturbed(request: pytest.FixtureRequest, recipe: Path, workplace: Path) -> Path:
    run_dir = workplace / f"undisturbed-{request.param}"
    run_here(recipe, run_dir, f"rollouts.max_staleness={request.param}")
    return run_dir


def test_killed_at_any_moment_it_ends_where_an_undisturbed_run_does(
    undisturbed: Path, recipe: Path, workplace: Path
) -> None:
    staleness = undisturbed.name[-1]
    run_dir = workplace / f"killed-{staleness}"
    source = random.Random(int(staleness))
    settings = [f"rollouts.max_staleness={staleness}"]
    for step in (1, 4):
        process = start(recipe, run_dir, *settings)
        if "resume=true" not in settings:
            settings.append("resume=true")
        wait_for_step(process, run_dir, step)
        time.sleep(source.uniform(0, 0.3))
        process.kill()
        process.communicate()
    run_here(recipe, run_dir, *settings)
    assert_same(undisturbed, run_dir)
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")] == list(range(STEPS + 1))


def steps_of(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) - 1 if file.exists() else -1


def test_staleness_is_reported_and_bounded(undisturbed: Path) -> None:
    bound = int(undisturbed.name[-1])
    rows = read_rows(undisturbed / "metrics.jsonl")[1:]
    # Nothing is sampled ahead over a checkpoint, which is made every other step.
    assert [row["staleness/max"] for row in rows] == [0, bound] * (STEPS // 2)
    corrected = [row for row in rows if "importance/max" in row]
    assert corrected
    if bound == 0:  # the sampler's log probs are the trainer's own, but for rounding
        assert all(abs(row["importance/max"] - 1) < 1e-3 for row in corrected)


def test_asked_to_stop_it_ends_after_its_step_and_goes_on_later(
    recipe: Path, workplace: Path
) -> None:
    # Only without staleness: a stop makes a checkpoint, over which nothing is sampled ahead.
    run_dir, undisturbed = workplace / "stopped", workplace / "not-stopped"
    process = start(recipe, run_dir, "steps=100000")  # so many that it cannot end by itself
    wait_for_step(process, run_dir, 1)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 143
    stopped_at = steps_of(run_dir)
    assert (run_dir / "checkpoints" / f"step-{stopped_at:06d}" / "state.json").is_file()
    steps = stopped_at + 2
    run_here(recipe, run_dir, "resume=true", f"steps={steps}")
    run_here(recipe, undisturbed, f"steps={steps}")
    assert_same(undisturbed, run_dir, steps)


def test_ranks_train_together(recipe: Path, workplace: Path) -> None:
    run_dir = workplace / "ranks"
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", "2", "-m", "deploy.cli"),
    ]
    kl = "metrics.kl_to_start_every=1"
    assert finish(start(recipe, run_dir, kl, launcher=torchrun)) == 0
    rows = read_rows(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    moved = [row["drift/kl_to_start"] for row in rows if "drift/kl_to_start" in row]
    assert moved[0] == pytest.approx(0.0, abs=1e-6)
    assert moved[-1] > 1e-6
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["steps"], summary["heldout_samples"]) == (STEPS, 4)
    assert summary["groups_scored"] == sum(row.get("scoring/groups", 0) for row in rows) > 0
