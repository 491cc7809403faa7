import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from counterhint import Weights
from counterhint.errors import InputError
from student_trainer.checkpoints import (
    TrainingState,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from student_trainer.models import Student, StudentConfig, load_student
from student_trainer.optimizer import Optimizer, OptimizerConfig

STATE = TrainingState("run", 3, 1.5, Weights("run", "r", "file:///w", "00"), {"a": 1.0})


def make_optimizer(student: Student) -> Optimizer:
    named = dict(student.model.named_parameters())
    return Optimizer(OptimizerConfig(lr=0.01), named, total_steps=9)


def take_step(student: Student, optimizer: Optimizer) -> None:
    for parameter in optimizer.parameters.values():
        parameter.grad = torch.full_like(parameter, 0.3)
    optimizer.update(0)


def test_a_checkpoint_holds_everything(
    student: Student, student_folder: Path, tmp_path: Path
) -> None:
    optimizer = make_optimizer(student)
    take_step(student, optimizer)
    saved = save_checkpoint(tmp_path, STATE, student, optimizer, keep=2)
    again = load_student(StudentConfig(model=student_folder, device="cpu"))
    resumed = make_optimizer(again)
    assert load_checkpoint(saved, again, resumed) == STATE
    take_step(student, optimizer)
    take_step(again, resumed)
    for name, value in student.model.named_parameters():
        assert torch.equal(value, again.model.get_parameter(name))
    AutoModelForCausalLM.from_pretrained(saved)


def test_the_newest_stay_and_the_newest_is_found(student: Student, tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    optimizer = make_optimizer(student)
    take_step(student, optimizer)
    for step in (1, 2, 10):
        state = dataclasses.replace(STATE, steps_done=step)
        save_checkpoint(tmp_path, state, student, optimizer, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000010"]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-000010"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named(student: Student, tmp_path: Path, name: str) -> None:
    optimizer = make_optimizer(student)
    take_step(student, optimizer)
    saved = save_checkpoint(tmp_path, STATE, student, optimizer, keep=2)
    (saved / name).write_bytes((saved / name).read_bytes()[:20])
    with pytest.raises(InputError, match="is damaged"):
        load_checkpoint(saved, student, optimizer)


def test_an_incomplete_checkpoint_is_named(student: Student, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        load_checkpoint(tmp_path, student, make_optimizer(student))
