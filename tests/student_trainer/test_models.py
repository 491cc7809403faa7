import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterhint.errors import InputError
from student_trainer.models import Student, StudentConfig, load_student, load_weights
from student_trainer.ranks import Ranks
from tests.tiny_models import write_tiny_llama


def test_full_tensors_are_the_models_own_with_tied_ones_once(student: Student) -> None:
    tensors = dict(student.full_tensors())
    named = dict(student.model.named_parameters())
    assert tensors.keys() == named.keys() == student.trainable().keys()
    assert all(torch.equal(tensors[name], named[name]) for name in named)
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_values_may_stand_in_for_trainable_ones(student: Student) -> None:
    name = "model.norm.weight"
    other = torch.arange(32.0)
    tensors = dict(student.full_tensors({name: other}))
    assert torch.equal(tensors[name], other)
    assert not torch.equal(student.trainable()[name], other)


def test_weights_of_a_folder_replace_the_students(student: Student, tmp_path: Path) -> None:
    changed = {name: value + 1 for name, value in student.full_tensors()}
    student.model.save_pretrained(tmp_path, state_dict=changed)
    load_weights(student, tmp_path, Ranks())
    assert all(torch.equal(value, changed[name]) for name, value in student.full_tensors())
    assert student.model.lm_head.weight is student.model.model.embed_tokens.weight


def test_weights_of_another_model_are_refused(student: Student, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    with pytest.raises(InputError, match=r"holds another model than .*model\.embed_tokens\.weight"):
        load_weights(student, tmp_path, Ranks())


def test_a_model_that_lacks_tensors_is_refused(student_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(student_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lack tensors of LlamaForCausalLM.*layers\.1\.mlp\.up"):
        load_student(StudentConfig(model=folder, device="cpu"))


def test_one_gpu_cannot_be_named_for_several_ranks(student_folder: Path) -> None:
    ranks = Ranks()
    ranks.count = 2
    with pytest.raises(InputError, match="cuda:1 is one GPU, but the run has 2 ranks"):
        load_student(StudentConfig(model=student_folder, device="cuda:1"), ranks)


def test_a_student_of_several_ranks_has_no_weights_yet(student_folder: Path) -> None:
    ranks = Ranks()
    ranks.count = 2
    student = load_student(StudentConfig(model=student_folder, device="cpu"), ranks)
    assert {parameter.device.type for parameter in student.model.parameters()} == {"meta"}
    assert student.device.type == "cpu"
    assert (
        student.end_ids()
        == load_student(StudentConfig(model=student_folder, device="cpu")).end_ids()
    )
