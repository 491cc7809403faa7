"""Estimates against what a pass really keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config

from student_trainer.batches import TokenBatch
from student_trainer.dry_run.resources import activation_bytes, estimate_memory
from student_trainer.forward import StudentForward
from student_trainer.models import Student, StudentConfig, load_shapes
from student_trainer.recipe import Recipe
from tests.student_trainer.paper_models import SHAPES, write_model_folder

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_recipe(folder: Path, student: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "run_dir": "run",
            "steps": 1,
            "task": {"kind": "chain"},
            "student": {"model": folder, **student},
            "method": {"kind": "grpo"},
            **settings,
        }
    )


def kept_bytes(student: Student, forward: StudentForward, tokens: int) -> int:
    """Bytes of all tensors that a pass keeps for its backward pass, weights aside."""
    ids = torch.arange(tokens)[None] % 512
    positions = torch.arange(tokens)[None]
    batch = TokenBatch(ids, positions, None, predicting=positions[0, :-1], targets=ids[0, 1:])
    weights = {parameter.untyped_storage().data_ptr() for parameter in forward.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), student.autocast():
        forward(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [LlamaConfig(**SIZES), Qwen3Config(head_dim=32, **SIZES)], ids=["llama", "qwen3"]
)
def test_activations_are_within_a_quarter_of_what_a_pass_keeps(
    shape: PreTrainedConfig, dtype: str, tmp_path: Path
) -> None:
    write_model_folder(tmp_path, shape)
    config = StudentConfig.model_validate({"model": tmp_path, "dtype": dtype})
    student = load_shapes(config)
    model = AutoModelForCausalLM.from_config(shape, attn_implementation="sdpa").eval()
    real = Student(model, student.tokenizer, "", student.dtype, torch.device("cpu"), tmp_path, None)
    recipe = make_recipe(tmp_path, {"dtype": dtype})
    estimate = activation_bytes(recipe, student, 512)
    if dtype == "bfloat16":  # what autocast has cast of the layers
        estimate += 2 * sum(p.numel() for p in student.model.base_model.layers.parameters())
    assert 0.75 < estimate / kept_bytes(real, StudentForward(model), 512) < 1.25


def test_what_each_choice_costs(tmp_path: Path) -> None:
    write_model_folder(tmp_path, SHAPES["Qwen3-8B"])
    parameters = 8_190_735_360

    def estimate(student: dict[str, Any], ranks: int = 1, **settings: Any) -> Any:
        recipe = make_recipe(tmp_path, student, **settings)
        return estimate_memory(recipe, load_shapes(recipe.student), 1000, ranks)

    whole = estimate({})
    assert whole.weights == 16 * parameters
    assert estimate({}, ranks=8).weights == 2 * parameters
    assert estimate({}, teacher_refresh={"kind": "ema"}).weights == 20 * parameters
    adapter = estimate({"lora": {"rank": 8}}).weights
    assert 4 * parameters < adapter < 4.1 * parameters
    assert estimate({"gradient_checkpointing": True}).activations < whole.activations / 10
    # 256 rows of 1,512 tokens, 36 layers, keys and values of 8 heads of 128 numbers.
    rows = {"prompts_per_step": 64}
    sampling = estimate({"dtype": "bfloat16"}, rollouts=rows).sampling
    assert sampling == 256 * 1512 * 36 * 2 * 8 * 128 * 2
    elsewhere = {"kind": "vllm_server", "addresses": ["a:1"], "weights_dir": "w"}
    assert estimate({}, rollouts={**rows, "sampler": elsewhere}).sampling == 0
