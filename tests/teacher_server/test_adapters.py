import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch

from counterhint import ScoringJob, Weights
from counterhint.errors import WeightsUnavailable
from student_trainer.lora import LoraConfig, adapter_layers, adapter_update
from student_trainer.models import StudentConfig, load_student
from student_trainer.ranks import Ranks
from student_trainer.teacher_weights import LiveTeacherConfig, TeacherWeights
from teacher_server.adapters import adaptable_layers, adapter_factors
from teacher_server.engines.model_folder import model_outline
from teacher_server.engines.transformers import TransformersEngine
from tests.teacher_server.adapter_files import Adapter
from tests.teacher_server.jobs import SMALL, plain_log_probs, random_job, tokens_of_pairs


def sampled(engine: TransformersEngine, job: ScoringJob) -> np.ndarray:
    scores = asyncio.run(engine.score(job)).scores
    assert scores.sampled is not None
    return scores.sampled


def expected(model: torch.nn.Module, job: ScoringJob) -> np.ndarray:
    tokens = tokens_of_pairs(job)
    return plain_log_probs(model, job)[np.arange(len(tokens)), tokens]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 5},
        {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    ],
)
def test_an_adapter_scores_as_the_model_that_it_makes(engine, model_folder, tmp_path, settings):
    own = {name: value.clone() for name, value in engine.model.state_dict().items()}
    adapter = Adapter(model_folder, tmp_path, **settings)
    job = random_job(**SMALL)
    before = sampled(engine, job)
    adapted = sampled(engine, replace(job, weights=adapter.publish()))
    np.testing.assert_allclose(adapted, expected(adapter.model, job), atol=1e-4)
    assert np.abs(adapted - before).max() > 0.1
    np.testing.assert_array_equal(sampled(engine, job), before)
    assert all(torch.equal(own[name], value) for name, value in engine.model.state_dict().items())


def test_all_but_the_adapted_weights_are_shared(engine, model_folder, tmp_path):
    adapter = Adapter(model_folder, tmp_path)
    copied = engine._prepare_named(adapter.publish())().model
    own = {name: value.data_ptr() for name, value in engine.model.named_parameters()}
    changed = {name for name, value in copied.named_parameters() if value.data_ptr() != own[name]}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "up_proj"}
    assert copied.lm_head.weight is copied.model.embed_tokens.weight


def test_adapters_and_whole_weights_take_turns_within_the_bound(engine, model_folder, tmp_path):
    adapters = [Adapter(model_folder, tmp_path, seed) for seed in (1, 2, 3)]
    job = random_job(**SMALL)
    jobs = [replace(job, weights=adapter.publish()) for adapter in adapters]
    for _ in range(2):
        for adapter, each in zip(adapters, jobs, strict=True):
            np.testing.assert_allclose(
                sampled(engine, each), expected(adapter.model, job), atol=1e-4
            )
            assert len(engine._named) <= 2


def test_what_a_student_publishes_is_scored_as_by_the_student(engine, model_folder, tmp_path):
    student = load_student(
        StudentConfig(model=model_folder, device="cpu", lora=LoraConfig(rank=3, rslora=True))
    )
    with torch.no_grad():
        for parameter in student.trainable().values():
            parameter += 0.1
    teacher = TeacherWeights(LiveTeacherConfig(), student, tmp_path, "run", Ranks())
    weights = teacher.after_step(student, 1)
    job = random_job(**SMALL)
    ours = sampled(engine, replace(job, weights=weights))
    np.testing.assert_allclose(ours, expected(student.model, job), atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 3},
        {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 5},
        {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    ],
)
def test_plain_factors_make_the_same_update_without_any_setting(model_folder, tmp_path, settings):
    adapter = Adapter(model_folder, tmp_path, **settings)
    outline = model_outline(model_folder, "float32")
    of = Weights("run", "1", "file:///x", "")
    factors = adapter_factors(outline, adapter.tensors, adapter.settings, of)
    layers = adapter_layers(adapter.model)
    assert {name.split(".lora_")[0] for name in factors} == set(layers)
    for name, layer in layers.items():
        a, b = (factors[f"{name}.lora_{factor}.weight"] for factor in "AB")
        torch.testing.assert_close(b @ a, adapter_update(layer))
    assert not any(tensor.is_meta for tensor in factors.values())


def test_adapters_may_change_all_linear_layers_but_the_head(model_folder):
    outline = model_outline(model_folder, "float32")
    attention, mlp = ["k_proj", "o_proj", "q_proj", "v_proj"], ["down_proj", "gate_proj", "up_proj"]
    assert adaptable_layers(outline) == sorted(attention + mlp)


FIRST = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("shape", f"tensor {FIRST} is [4, 31]"),
        ("rank", f"tensor {FIRST} is [4, 32], but the teacher's model and the adapter_config want"),
        ("absent", f"tensor {FIRST} is not in the file"),
        ("layer", "tensor base_model.model.model.layers.9.mlp.up_proj.lora_A.weight: the teacher"),
        ("kind", "tensor base_model.model.model.norm.weight is not a linear layer's"),
        ("head", "tensor base_model.model.lm_head.lora_A.weight: the layer shares its weight"),
        ("settings", "tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"),
        ("nan", f"tensor {FIRST} holds values that are not finite"),
        ("method", "an adapter of kind 'IA3', not LORA"),
        ("number", "its adapter_config cannot be used"),
        ("decomposed", "an adapter with use_dora=True is not supported"),
        ("whole layers", "an adapter with modules_to_save=['lm_head'] is not supported"),
        ("other base", "its init_lora_weights='pissa' changed the base as well"),
    ],
)
def test_adapters_of_another_base_are_refused(engine, model_folder, tmp_path, damage, named):
    adapter = Adapter(model_folder, tmp_path)
    tensors, settings = adapter.tensors, adapter.settings
    if damage == "shape":
        tensors[FIRST] = tensors[FIRST][:, :-1].contiguous()
    elif damage == "rank":
        settings["r"] = 2
    elif damage == "absent":
        del tensors[FIRST]
    elif damage == "layer":
        tensors[FIRST.replace("layers.0", "layers.9")] = tensors[FIRST].clone()
    elif damage == "kind":
        tensors["base_model.model.model.norm.weight"] = torch.ones(32)
    elif damage == "head":
        tensors["base_model.model.lm_head.lora_A.weight"] = torch.ones(4, 32)
    elif damage == "settings":
        settings["target_modules"] = ["up_proj"]
    elif damage == "nan":
        tensors[FIRST][0, 0] = torch.nan
    elif damage == "method":
        settings["peft_type"] = "IA3"
    elif damage == "decomposed":
        settings["use_dora"] = True
        tensors[FIRST.replace("lora_A.weight", "lora_magnitude_vector")] = torch.ones(32)
    elif damage == "whole layers":
        settings["modules_to_save"] = ["lm_head"]
    elif damage == "other base":
        settings["init_lora_weights"] = "pissa"
    else:
        settings["r"] = "four"
    job = random_job(**SMALL)
    before = sampled(engine, job)
    with pytest.raises(WeightsUnavailable) as refused:
        sampled(engine, replace(job, weights=adapter.publish()))
    assert refused.value.reason == "WEIGHTS_INCOMPATIBLE"
    assert named in refused.value.message
    np.testing.assert_array_equal(sampled(engine, job), before)
