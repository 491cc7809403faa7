import hashlib
import json
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from counterhint import Weights
from counterhint.jobs import ADAPTER_METADATA
from student_trainer.lora import LoraConfig
from student_trainer.models import Student, StudentConfig, load_student
from student_trainer.ranks import Ranks
from student_trainer.teacher_weights import (
    EmaTeacherConfig,
    FixedTeacherConfig,
    LiveTeacherConfig,
    SnapshotTeacherConfig,
    TeacherRefreshConfig,
    TeacherWeights,
    prune_weights,
)


def change(student: Student, step: int) -> None:
    """Stands for an update."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in student.trainable().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def follow(rule: TeacherRefreshConfig, student: Student, folder: Path) -> TeacherWeights:
    return TeacherWeights(rule, student, folder, "run", Ranks())


def file_of(weights: Weights | None) -> Path:
    assert weights is not None
    return Path(urlparse(weights.uri).path)


@pytest.fixture
def adapted(student_folder: Path) -> Student:
    lora = LoraConfig(rank=4, alpha=8, target_modules=("q_proj", "down_proj"))
    return load_student(StudentConfig(model=student_folder, device="cpu", lora=lora))


@pytest.mark.parametrize(
    ("rule", "published"),
    [
        (FixedTeacherConfig(), []),
        (SnapshotTeacherConfig(every=3), [3, 6]),
        (LiveTeacherConfig(), [1, 2, 3, 4, 5, 6]),
        (EmaTeacherConfig(every=2), [2, 4, 6]),
    ],
)
def test_when_weights_are_published(
    student: Student, tmp_path: Path, rule: TeacherRefreshConfig, published: list[int]
) -> None:
    teacher = follow(rule, student, tmp_path)
    assert [step for step in range(1, 7) if teacher.after_step(student, step)] == published


def test_published_weights_are_named_by_their_content(student: Student, tmp_path: Path) -> None:
    weights = follow(LiveTeacherConfig(), student, tmp_path / "w").after_step(student, 10)
    file = file_of(weights)
    assert weights is not None
    assert hashlib.sha256(file.read_bytes()).hexdigest() == weights.sha256
    assert weights.revision == f"step-000010-{weights.sha256[:12]}"
    tensors = load_file(file)
    named = dict(student.model.named_parameters())
    assert set(tensors) == set(named)
    assert "lm_head.weight" not in tensors  # tied to the embeddings, which are there
    assert all(torch.equal(tensors[name], named[name]) for name in tensors)


def test_a_student_in_half_precision_publishes_half_precision(
    student_folder: Path, tmp_path: Path
) -> None:
    student = load_student(StudentConfig(model=student_folder, device="cpu", dtype="bfloat16"))
    weights = follow(LiveTeacherConfig(), student, tmp_path).after_step(student, 1)
    assert {tensor.dtype for tensor in load_file(file_of(weights)).values()} == {torch.bfloat16}


@pytest.mark.parametrize("adapter", [False, True])
def test_the_average_is_that_of_the_formula(
    student: Student, adapted: Student, tmp_path: Path, adapter: bool
) -> None:
    learner = adapted if adapter else student
    teacher = follow(EmaTeacherConfig(decay=0.8), learner, tmp_path)
    expected = {name: value.detach().double() for name, value in learner.trainable().items()}
    for step in (1, 2, 3):
        change(learner, step)
        weights = teacher.after_step(learner, step)
        for name, value in learner.trainable().items():
            expected[name] = 0.8 * expected[name] + 0.2 * value.detach().double()
    published = load_file(file_of(weights))
    assert len(published) == len(expected)
    for name, value in expected.items():
        found = published["base_model.model." + name.replace(".default.", ".") if adapter else name]
        torch.testing.assert_close(found.double(), value, atol=1e-6, rtol=0)


def test_an_adapter_is_published_as_peft_stores_it(
    adapted: Student, student_folder: Path, tmp_path: Path
) -> None:
    change(adapted, 1)
    file = file_of(follow(LiveTeacherConfig(), adapted, tmp_path).after_step(adapted, 1))
    with safe_open(file, "pt") as content:
        settings = json.loads(content.metadata()[ADAPTER_METADATA])
    folder = tmp_path / "peft"
    PeftLoraConfig(**settings).save_pretrained(str(folder))
    file.rename(folder / "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student_folder), folder)
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(loaded(ids).logits, adapted.model(ids).logits, atol=1e-5, rtol=0)


def test_only_what_is_named_stays_and_nothing_unfinished(student: Student, tmp_path: Path) -> None:
    teacher = follow(LiveTeacherConfig(), student, tmp_path)
    published = [teacher.after_step(student, step) for step in (10, 20, 30)]
    (tmp_path / "step-000031.unfinished").write_bytes(b"of a killed run")
    prune_weights(tmp_path, [None, *published[1:]])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "step-000020.safetensors",
        "step-000030.safetensors",
    ]
