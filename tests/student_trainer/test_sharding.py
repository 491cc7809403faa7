"""One process against several: the same learning, and checkpoints that go from one to the other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from student_trainer.ranks import Ranks
from tests.student_trainer import sharded_run
from tests.student_trainer.sharded_run import STEPS, ShardedRun, Task, write_tasks

ROOT = Path(__file__).parents[2]
VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "lora": {"lora": {"rank": 3}, "gradient_checkpointing": True, "whole_gradients": True},
}
HALF = {"dtype": "bfloat16"}


@pytest.fixture(scope="module")
def runs(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `1/full`, `2/full`, … of runs over so many ranks, and `1-2/full`, … of runs over two
    ranks that only read the checkpoint of one."""
    folder = tmp_path_factory.mktemp("sharded")

    def task(name: str, variant: str, begin: str | None = None) -> Task:
        settings = HALF if variant == "half" else VARIANTS[variant]
        out = folder / name / variant
        out.mkdir(parents=True)
        saved = begin and str(folder / begin / variant / "checkpoints" / f"step-{STEPS:06d}")
        student = {"model": str(student_folder), "device": "cpu", **settings}
        return Task(student, str(out), saved, 0 if begin else STEPS)

    def alone(*tasks: Task) -> None:
        for each in tasks:
            ShardedRun(each, Ranks()).go()

    alone(*(task("1", variant) for variant in ("half", *VARIANTS)))
    two = [task("2", variant) for variant in ("half", *VARIANTS)]
    two += [task("1-2", variant, "1") for variant in VARIANTS]
    three = [task("2-3", variant, "2") for variant in VARIANTS]
    run_on_ranks(folder / "tasks.json", (2, two), (3, three))
    alone(*(task("2-1", variant, "2") for variant in VARIANTS))
    return folder


def run_on_ranks(file: Path, *tasks: tuple[int, list[Task]]) -> None:
    write_tasks(file, list(tasks))
    done = subprocess.run(
        [sys.executable, "-m", sharded_run.__name__, str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]


def tensors(runs: Path, name: str, variant: str, prefix: str = "") -> dict[str, Tensor]:
    found = load_file(runs / name / variant / "tensors.safetensors")
    return {key: value for key, value in found.items() if key.startswith(prefix)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("what", ["loss/", "gradient/", "norm/", "model/", "average/", "full/"])
def test_two_processes_learn_what_one_does(runs: Path, variant: str, what: str) -> None:
    one, two = (tensors(runs, name, variant, what) for name in ("1", "2"))
    assert one.keys() == two.keys() != set()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_is_clipped_and_moves_the_weights(runs: Path, variant: str) -> None:
    norms = tensors(runs, "2", variant, "norm/")
    assert all(norm > 0.5 for norm in norms.values())
    average = tensors(runs, "2", variant, "average/")
    model = tensors(runs, "2", variant, "model/")
    moved = [
        (model[f"model/{n.removeprefix('average/')}"] - average[n]).abs().max() for n in average
    ]
    assert min(moved) > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_methods_update_alike_on_one_rank_padded_and_on_two_packed(
    runs: Path, variant: str
) -> None:
    for what in ("update/", "updated/"):
        one, two = (tensors(runs, name, variant, what) for name in ("1", "2"))
        assert one.keys() == two.keys() != set()
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5, msg=name)
    figures = tensors(runs, "2", variant, "update/")
    assert 0 < figures["update/rlcsd/signal/selected_share"] < 1
    assert 0 < figures["update/srpo/signal/distilled_share"] < 1
    assert all(figures[f"update/{kind}/optim/grad_norm"] > 0 for kind in ("rlcsd", "srpo"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_rank_samples_from_the_whole_model(runs: Path, variant: str) -> None:
    one, two = (tensors(runs, name, variant, "rollouts")["rollouts"] for name in ("1", "2"))
    assert torch.equal(one, two)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("change", ["1-2", "2-1", "2-3"])
def test_a_checkpoint_is_read_by_any_number_of_ranks(runs: Path, variant: str, change: str) -> None:
    for what in ("model/", "adam/", "average/"):
        saved = tensors(runs, change[0], variant, what)
        found = tensors(runs, change, variant, what)
        assert saved.keys() == found.keys() != set()
        assert all(torch.equal(saved[name], found[name]) for name in saved)


def test_the_checkpoint_of_several_ranks_is_a_model_folder(runs: Path) -> None:
    checkpoint = runs / "2/full/checkpoints" / f"step-{STEPS:06d}"
    assert len(list(checkpoint.glob("optimizer-*-of-00002.safetensors"))) == 2
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint)
    saved = tensors(runs, "2", "full", "model/")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, saved[f"model/{name}"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_several_ranks_publish_the_average_as_one_does(runs: Path, variant: str) -> None:
    one, two = (
        load_file(runs / name / variant / "weights" / f"step-{STEPS:06d}.safetensors")
        for name in ("1", "2")
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)


def test_half_precision_keeps_whole_weights_and_learns_about_the_same(runs: Path) -> None:
    half, single = (tensors(runs, "2", variant) for variant in ("half", "full"))
    assert {half[name].dtype for name in half if name.startswith(("model", "adam"))} == {
        torch.float32
    }
    one = tensors(runs, "1", "half")
    for step in range(STEPS):
        loss, norm = f"loss/{step}", f"norm/{step}"
        for reference in (one, single):
            torch.testing.assert_close(half[loss], reference[loss], atol=0.1, rtol=0.05)
            torch.testing.assert_close(half[norm], reference[norm], atol=0, rtol=0.2)
