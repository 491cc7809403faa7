from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterhint.errors import InputError
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.tasks.chain import ChainTask, ChainTaskConfig
from student_trainer.tiny.config import ShippedModelConfig, TinyModelsConfig
from student_trainer.tiny.demonstrations import Demonstrator
from student_trainer.tiny.gates import Fitness, WarmupGateError, check, measure
from student_trainer.tiny.make import copy_shipped, make_tiny_models
from student_trainer.tiny.tokenizer import build_tokenizer

PROMPTS = PromptConfig(hint_template="recipes/tiny/hint.txt")
RECIPE = yaml.safe_load(Path("recipes/tiny.yaml").read_text())
RECIPE_MODELS = TinyModelsConfig.model_validate(RECIPE["models"])
RECIPE_TASK = ChainTaskConfig.model_validate(RECIPE["task"]).build()


def small_models(**gate: float) -> TinyModelsConfig:
    bounds = {"problems": 16, "min_accuracy": 0, "max_accuracy": 1, "max_blind_copy": 1}
    model = {
        "shape": {"layers": 1, "width": 16, "mlp_width": 16},
        "warmup": {"lessons": [{"examples": 40, "hinted_share": 0.5}]},
        "gate": {**bounds, "min_hint_trust": 0, **gate},
    }
    return TinyModelsConfig.model_validate({"student": model, "teacher": model})


def two_operations() -> ChainTask:
    return ChainTaskConfig(operations=2).build()


def test_models_are_saved_in_the_ordinary_format(tmp_path: Path) -> None:
    fitness = make_tiny_models(small_models(), two_operations(), PROMPTS, tmp_path)
    assert set(fitness) == {"student", "teacher"}
    for name in fitness:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name, attn_implementation="sdpa")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.num_key_value_heads < model.config.num_attention_heads
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_student_for_sheets_is_measured_without_blind_copies(tmp_path: Path) -> None:
    config = small_models().model_copy(update={"teacher": None})
    task = ChainTaskConfig(operations=2, layout="sheet").build()
    fitness = make_tiny_models(config, task, PROMPTS, tmp_path, which=["student"])
    assert fitness["student"].blind_copy is None
    assert "blind" not in str(fitness["student"])
    with pytest.raises(InputError, match=r"models\.teacher: the recipe has none"):
        make_tiny_models(config, task, PROMPTS, tmp_path, which=["teacher"])


def test_an_unfit_model_is_refused_and_not_saved(tmp_path: Path) -> None:
    config = small_models(min_accuracy=0.95)
    with pytest.raises(WarmupGateError, match=r"the student is unfit .* give models\.student"):
        make_tiny_models(config, two_operations(), PROMPTS, tmp_path, which=["student"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fitness", "complaint"),
    [
        (Fitness(0.2, 0.9, 0.0, 0.9), "accuracy is not between 0.3 and 0.6: give"),
        (Fitness(0.7, 0.9, 0.0, 0.9), "accuracy is not between 0.3 and 0.6: raise task.operations"),
        (Fitness(0.4, 0.9, 0.5, 0.4), "copies hints blindly"),
        (Fitness(0.4, 0.1, 0.0, 0.9), "does not use hints"),
    ],
)
def test_each_gate_says_what_is_wrong(fitness: Fitness, complaint: str) -> None:
    gate = RECIPE_MODELS.student.gate
    check(Fitness(0.45, 0.9, 0.03, 0.8), gate, "student")
    with pytest.raises(WarmupGateError, match=complaint):
        check(fitness, gate, "student")


def test_one_operation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task\.operations"):
        make_tiny_models(small_models(), ChainTaskConfig(operations=1).build(), PROMPTS, tmp_path)


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="even multiple of heads"):
        TinyModelsConfig.model_validate(
            {**RECIPE["models"], "student": {"shape": {"layers": 1, "width": 30, "mlp_width": 8}}}
        )


def shipped() -> ShippedModelConfig:
    assert RECIPE_MODELS.shipped_teacher is not None
    return RECIPE_MODELS.shipped_teacher


def test_the_shipped_teacher_is_copied_with_our_vocabulary(tmp_path: Path) -> None:
    fitness = make_tiny_models(RECIPE_MODELS, RECIPE_TASK, PROMPTS, tmp_path, which=["teacher"])
    assert fitness == {}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.chat_template == build_tokenizer().chat_template
    assert (tmp_path / "teacher" / "model.safetensors").stat().st_size < 3_000_000


def test_the_shipped_teacher_passes_its_gate() -> None:
    folder = shipped().folder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = build_tokenizer()
    gate = RECIPE_MODELS.teacher.gate
    author = Demonstrator(RECIPE_MODELS.student.author)
    prompts = Prompts(tokenizer, PROMPTS, RECIPE_TASK.answer_format)
    fitness = measure(model, tokenizer, RECIPE_TASK, prompts, author, problems=128)
    check(fitness, gate, "teacher")
    assert fitness.hint_trust > 0.8


def test_a_damaged_teacher_is_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "teacher"
    damaged.mkdir()
    (damaged / "model.safetensors").write_bytes(b"not these weights")
    config = ShippedModelConfig(folder=damaged, sha256=shipped().sha256)
    with pytest.raises(InputError, match=r"has the SHA-256 .*, not .*: restore the file"):
        copy_shipped(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_teacher_is_refused(tmp_path: Path) -> None:
    config = ShippedModelConfig(folder=tmp_path / "nowhere", sha256="0" * 64)
    with pytest.raises(InputError, match="does not exist"):
        copy_shipped(config, tmp_path / "out")
