"""Options that cannot be used are told by their names."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from counterhint.errors import InputError
from teacher_server.engines.vllm.options import VllmOptions, engine_config, parse_engine_args
from teacher_server.engines.vllm.requests import TokenIdsPath, pair_requests
from tests.teacher_server.jobs import random_job
from tests.tiny_models import write_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_tiny_llama(folder, hidden_size=128)
    return folder


def refusal(folder: Path, *words: str, **options: Any) -> str:
    with pytest.raises(InputError) as refused:
        engine_config(VllmOptions(folder, engine_args=parse_engine_args(words), **options))
    return str(refused.value)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_message_says_how_to_get_it(folder):
    assert refusal(folder) == (
        "--engine vllm: vllm is not installed here: pip install 'counterhint[teacher-vllm]' in an "
        "environment of its own, or use --engine transformers"
    )


def test_engine_arguments_are_yaml_by_their_names_in_python():
    words = ["tensor-parallel-size=2", "enforce_eager=true", "hf_overrides={a: [1]}", "revision="]
    assert parse_engine_args(words) == {
        "tensor_parallel_size": 2,
        "enforce_eager": True,
        "hf_overrides": {"a": [1]},
        "revision": None,
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("max_num_seqs", "--engine-arg max_num_seqs: give name=value"),
        ("=2", "--engine-arg =2: give name=value"),
        ("hf_overrides=x: [", "the value is not YAML"),
    ],
)
def test_words_that_are_no_arguments(word, message):
    with pytest.raises(InputError, match="--engine-arg") as refused:
        parse_engine_args([word])
    assert message in str(refused.value)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tensor_parallel=2", "has no such engine argument; give it by its name in Python"),
        ("logprobs_mode=raw_logits", "scoring needs logprobs_mode=raw_logprobs; remove it"),
        ("max_model_len=99", "--engine-arg max_model_len=99: give --max-model-len instead"),
        ("max_num_seqs=many", "max_num_seqs=many: Input should be a valid integer"),
        ("pipeline_parallel_size=2", "pipeline_parallel_size=2: on a CPU"),
        ("block_size=[1]", "block_size=[1]: Input should be a valid integer"),
        ("hf_overrides=", "hf_overrides=None: give fields of config.json"),
        ("hf_overrides=3", "hf_overrides=3: give fields of config.json"),
        ("hf_overrides={head_dtype: bfloat16}", "exact only from a float32 head; remove it"),
    ],
)
def test_engine_arguments_that_cannot_be_used(folder, word, message):
    assert message in refusal(folder, word)


@pytest.mark.vllm
def test_options_that_this_vllm_or_model_cannot_do(folder):
    assert "--scoring-path token-ids: vLLM 0." in refusal(folder, scoring_path="token-ids")
    assert "max_model_len" in refusal(folder, max_model_len=100_000)
    assert "max_num_batched_tokens=100000000" in refusal(
        folder, "max_num_batched_tokens=100000000", scoring_path="prompt-log-probs"
    )


@pytest.mark.vllm
@pytest.mark.skipif(torch.cuda.is_available(), reason="for vLLM on a CPU")
def test_heads_that_a_cpu_cannot_compute(tmp_path):
    write_tiny_llama(tmp_path)
    assert "its heads have 8 dimensions" in refusal(tmp_path)


@pytest.mark.vllm
def test_given_ids_may_be_more_than_the_largest_top_k(folder):
    config, _ = engine_config(VllmOptions(folder, max_top_k=2))
    (request,) = pair_requests(random_job((3,), (2,), [(0, 0)], given=8))
    params = TokenIdsPath().sampling_params(request, cached=True)
    params.verify(config.model_config, None, None, None)
