from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config

from counterhint.errors import InputError
from teacher_server.engines.vllm.options import VllmOptions, engine_config
from tests.teacher_server.engines.vllm.models import MODELS
from tests.tiny_models import write_model, write_tokenizer

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    MODELS["llama"](folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that vLLM has no adapters for."""
    folder = tmp_path_factory.mktemp("gpt2")
    write_tokenizer(folder)
    write_model(folder, GPT2Config(vocab_size=64, n_embd=64, n_head=2, n_layer=1, n_positions=64))
    return folder


def adapters_of(folder: Path, *, weights: bool = True, **engine_args: Any) -> Any:
    """vLLM's settings of adapters; None when it takes none."""
    roots = (folder,) if weights else ()
    options = VllmOptions(folder, weights_roots=roots, engine_args=engine_args)
    return engine_config(options)[0].lora_config


def test_adapters_are_taken_where_weights_may_come_from(llama, gpt2):
    settings = adapters_of(llama, max_lora_rank=8)
    assert settings.max_lora_rank == 8
    # One place more than --max-loaded-weights: on a CPU the last one must stay empty.
    assert settings.max_loras == settings.max_cpu_loras == 3
    assert "q_proj" in settings.target_modules
    assert "lm_head" not in settings.target_modules
    assert adapters_of(llama, weights=False) is None
    assert adapters_of(llama, enable_lora=False) is None
    assert adapters_of(gpt2) is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_loras": 4}, "give --max-loaded-weights instead"),
        ({"enable_lora": True, "weights": False}, "--weights-root, which is not given"),
        ({"lora_target_modules": ["lm_head"]}, "lm_head is no layer that adapters may change"),
    ],
)
def test_arguments_that_do_not_go_with_adapters_are_refused(llama, arguments, text):
    with pytest.raises(InputError, match=text):
        adapters_of(llama, **arguments)


def test_adapters_that_vllm_cannot_put_on_a_model_are_refused(gpt2):
    with pytest.raises(InputError, match="no adapters for GPT2LMHeadModel"):
        adapters_of(gpt2, enable_lora=True)
