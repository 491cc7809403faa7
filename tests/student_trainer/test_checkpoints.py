import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterhint import Weights
from counterhint.errors import InputError
from student_trainer.checkpoints import (
    TrainingState,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from student_trainer.lora import LoraConfig
from student_trainer.models import Student, StudentConfig, load_student
from student_trainer.optimizer import Optimizer, OptimizerConfig
from student_trainer.ranks import Ranks
from student_trainer.teacher_weights import EmaTeacherConfig, TeacherWeights

STATE = TrainingState("run", 3, 1.5, Weights("run", "r", "file:///w", "00"), {"a": 1.0}, 2)


class Run:
    """What a checkpoint holds of a run of one process, with an average as teacher."""

    def __init__(self, student: Student) -> None:
        self.student = student
        self.optimizer = Optimizer(OptimizerConfig(lr=0.01), student.trainable(), total_steps=9)
        self.ranks = Ranks()
        self.teacher = TeacherWeights(
            EmaTeacherConfig(every=100), student, Path("unused"), "run", self.ranks
        )

    def step(self) -> None:
        for name, parameter in self.optimizer.parameters.items():
            seed = len(name)
            generator = torch.Generator().manual_seed(seed)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizer.update(0)
        assert self.teacher.after_step(self.student, 1) is None

    def save(self, folder: Path, state: TrainingState = STATE) -> Path:
        return save_checkpoint(
            folder, state, self.student, self.optimizer, self.teacher, 2, self.ranks
        )

    def load(self, checkpoint: Path) -> TrainingState:
        return load_checkpoint(checkpoint, self.student, self.optimizer, self.teacher, self.ranks)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that is to survive, as copies."""
        own = {f"model/{name}": value for name, value in self.student.trainable().items()}
        optimizer = {
            f"adam/{name}": value for name, value in self.optimizer.state_tensors().items()
        }
        average = {f"ema/{name}": value for name, value in self.teacher.state_tensors().items()}
        return {name: value.detach().clone() for name, value in (own | optimizer | average).items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_a_checkpoint_holds_everything(
    student_folder: Path, tmp_path: Path, lora: LoraConfig | None
) -> None:
    config = StudentConfig(model=student_folder, device="cpu", lora=lora)
    run = Run(load_student(config))
    run.step()
    run.step()
    saved = run.save(tmp_path)
    resumed = Run(load_student(config))
    assert resumed.load(saved) == STATE
    assert_equal(resumed.tensors(), run.tensors())
    run.step()
    resumed.step()
    assert_equal(resumed.tensors(), run.tensors())


def test_a_checkpoint_is_a_model_folder(student: Student, tmp_path: Path) -> None:
    run = Run(student)
    run.step()
    again = AutoModelForCausalLM.from_pretrained(run.save(tmp_path))
    assert_equal(dict(again.named_parameters()), dict(student.model.named_parameters()))
    assert len(AutoTokenizer.from_pretrained(run.save(tmp_path))) == len(student.tokenizer)


def test_a_checkpoint_of_an_adapter_is_one_for_peft(student_folder: Path, tmp_path: Path) -> None:
    run = Run(
        load_student(
            StudentConfig(model=student_folder, device="cpu", lora=LoraConfig(rank=4, rslora=True))
        )
    )
    run.step()
    saved = run.save(tmp_path)
    assert not (saved / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(student_folder)
    ids = torch.arange(3, 20)[None]
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, saved)
    ours = run.student.model(ids).logits
    torch.testing.assert_close(adapted(ids).logits, ours, atol=1e-5, rtol=0)
    assert (ours - plain).abs().max() > 0.01


def test_the_newest_stay_and_the_newest_is_found(student: Student, tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    run = Run(student)
    for step in (1, 2, 10):
        run.save(tmp_path, dataclasses.replace(STATE, steps_done=step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000010"]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-000010"


def test_killed_while_the_oldest_is_removed_only_whole_ones_are_seen(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def remove_a_part(folder: Path) -> None:
        (folder / "state.json").unlink()
        raise Killed

    run = Run(student)
    for step in (1, 2):
        run.save(tmp_path, dataclasses.replace(STATE, steps_done=step))
    monkeypatch.setattr(shutil, "rmtree", remove_a_part)
    with pytest.raises(Killed):
        run.save(tmp_path, dataclasses.replace(STATE, steps_done=3))
    monkeypatch.undo()
    assert all((seen / "state.json").is_file() for seen in tmp_path.glob("step-*"))
    run.save(tmp_path, dataclasses.replace(STATE, steps_done=4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000004"]


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer-00001-of-00001.safetensors",
        "teacher-00001-of-00001.safetensors",
        "state.json",
    ],
)
def test_a_damaged_checkpoint_is_named(student: Student, tmp_path: Path, name: str) -> None:
    run = Run(student)
    saved = run.save(tmp_path)
    (saved / name).write_bytes((saved / name).read_bytes()[:20])
    with pytest.raises(InputError, match="is damaged"):
        run.load(saved)


@pytest.mark.parametrize("name", ["optimizer", "teacher"])
def test_a_part_that_is_missing_is_named(student: Student, tmp_path: Path, name: str) -> None:
    run = Run(student)
    saved = run.save(tmp_path)
    file = saved / f"{name}-00001-of-00001.safetensors"
    file.rename(saved / f"{name}-00001-of-00002.safetensors")
    assert run.load(saved) == STATE  # a rank's file may have any number
    (saved / f"{name}-00001-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=rf"(is missing in )?{name}-\*\.safetensors( is missing)?"):
        run.load(saved)


def test_an_incomplete_checkpoint_is_named(student: Student, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\*\.safetensors is missing"):
        Run(student).load(tmp_path)


def test_an_adapter_of_another_rank_is_refused(student_folder: Path, tmp_path: Path) -> None:
    one, four = (
        Run(
            load_student(StudentConfig(model=student_folder, device="cpu", lora=LoraConfig(rank=r)))
        )
        for r in (1, 4)
    )
    with pytest.raises(InputError, match=r"a tensor is \[1, 32\], but must be \[4, 32\]"):
        four.load(one.save(tmp_path))
