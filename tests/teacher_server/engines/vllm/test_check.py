"""Whether the engine is well is not told by weights that a job brought."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from counterhint import Weights
from teacher_server.engines.base import one_token_job
from tests.teacher_server.engines.vllm.vllm_teacher import VllmTeacher


def diverged(model: Path) -> Weights:
    """Weights whose values are finite, but whose scores are not."""
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"][0] = tensors["model.embed_tokens.weight"][1]  # was zero
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] *= 1e25
    file = model.parent / "diverged.safetensors"
    save_file(tensors, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Weights("run", "diverged", file.as_uri(), digest)


@pytest.mark.vllm
@pytest.mark.parametrize("teacher", ["llama, weights"], indirect=True)
def test_an_engine_that_holds_diverged_weights_is_well(teacher: VllmTeacher, models: Path) -> None:
    job = replace(one_token_job(teacher.info), weights=diverged(models / "llama"))
    (scored,) = teacher.score(job)
    assert not np.isfinite(scored.scores.sampled).all()
    checked = teacher.loop.run(teacher.engine.check())
    assert np.isfinite(checked.scores.sampled).all()
    assert checked.weights_revision == teacher.info.weights_revision
