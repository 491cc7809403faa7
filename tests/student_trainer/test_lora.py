from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from counterhint.errors import InputError
from student_trainer.lora import LoraConfig
from student_trainer.models import Student, StudentConfig, load_student


def load(folder: Path, **settings: object) -> Student:
    lora = LoraConfig.model_validate({"rank": 4, **settings})
    return load_student(StudentConfig(model=folder, device="cpu", lora=lora))


def test_only_the_adapter_learns_and_begins_as_nothing(student_folder: Path) -> None:
    adapted = load(student_folder)
    names = set(adapted.trainable())
    assert len(names) == 2 * 7 * 2  # A and B of seven linear layers in each of two decoder layers
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    base = AutoModelForCausalLM.from_pretrained(student_folder)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(adapted.model(ids).logits, base(ids).logits)


def test_an_adapter_begins_the_same_with_the_same_seed(student_folder: Path) -> None:
    one, same, other = (load(student_folder, seed=seed).trainable() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one if ".lora_A." in name)


@pytest.mark.parametrize("rslora", [False, True])
def test_full_tensors_are_those_of_a_plain_model_with_the_adapter_merged(
    student_folder: Path, rslora: bool
) -> None:
    adapted = load(student_folder, rslora=rslora, target_modules=["o_proj", "up_proj"])
    with torch.no_grad():
        for parameter in adapted.trainable().values():
            parameter += 0.1
    plain = AutoModelForCausalLM.from_pretrained(student_folder)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    tensors = dict(adapted.full_tensors())
    missing, unexpected = plain.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(plain(ids).logits, adapted.model(ids).logits, atol=1e-4, rtol=0)
    changed = {name for name, value in plain.state_dict().items() if not value.equal(before[name])}
    assert {name.split(".")[-2] for name in changed} == {"o_proj", "up_proj"}


def test_dropout_is_refused() -> None:
    with pytest.raises(ValidationError, match="would part the student that learns from the one"):
        LoraConfig(dropout=0.1)


@pytest.mark.filterwarnings("error")  # peft warns of tied weights, when it gets as far as that
@pytest.mark.parametrize("module", ["x_proj", "lm_head", "embed_tokens"])
def test_layers_that_cannot_have_an_adapter_are_named(student_folder: Path, module: str) -> None:
    with pytest.raises(InputError, match=rf"target_modules.*({module}|head)"):
        load(student_folder, target_modules=["q_proj", module])
