import hashlib
from pathlib import Path
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file

from student_trainer.models import Student
from student_trainer.teacher_weights import (
    FixedTeacherConfig,
    SnapshotTeacherConfig,
    prune_weights,
    publish_weights,
)


def test_when_weights_are_due() -> None:
    assert [step for step in range(1, 9) if SnapshotTeacherConfig(every=3).due(step)] == [3, 6]
    assert not any(FixedTeacherConfig().due(step) for step in range(1, 99))


def test_published_weights_are_named_by_their_content(student: Student, tmp_path: Path) -> None:
    weights = publish_weights(student.model, tmp_path / "w", run_id="run", steps_done=10)
    file = Path(urlparse(weights.uri).path)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == weights.sha256
    tensors = load_file(file)
    named = dict(student.model.named_parameters())
    assert set(tensors) == set(named)
    assert "lm_head.weight" not in tensors  # tied to the embeddings, which are there
    assert all(torch.equal(tensors[name], named[name]) for name in tensors)


def test_only_what_is_named_stays_and_nothing_unfinished(student: Student, tmp_path: Path) -> None:
    published = [
        publish_weights(student.model, tmp_path, run_id="run", steps_done=step)
        for step in (10, 20, 30)
    ]
    prune_weights(tmp_path, [None, *published[1:]])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "step-000020.safetensors",
        "step-000030.safetensors",
    ]
