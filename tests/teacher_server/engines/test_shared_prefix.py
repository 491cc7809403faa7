"""Parity with one plain full forward pass a pair, over kinds of models and shapes of jobs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from counterhint import Outputs
from counterhint.errors import InputError
from teacher_server.engines.shared_prefix import GroupScorer, check_shareable
from tests.teacher_server.jobs import (
    ALL,
    given_of_pairs,
    plain_log_probs,
    random_job,
    tokens_of_pairs,
)

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "pad_token_id": 0,
}
GEMMA: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6}

MODELS = {
    "llama": LlamaConfig(**SIZES),
    "llama-gqa-tied": LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2-bias": Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3-qk-norm": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=12),
    "phi3-fused": Phi3Config(**SIZES, num_key_value_heads=2, bos_token_id=1, eos_token_id=2),
    "mistral-window": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6),
    "gemma2-window-caps": Gemma2Config(**SIZES, **GEMMA),
    "gemma3-window": Gemma3TextConfig(
        **SIZES, **GEMMA, layer_types=["sliding_attention", "full_attention"]
    ),
}

JOBS = {
    "one-pair": random_job([9], [7], [(0, 0)], given=2),
    "group": random_job(
        [20] * 4, [12] * 4, [(c, r) for r in range(4) for c in range(4) if c != r], given=2
    ),
    "unequal": random_job(
        [3, 25, 11, 1, 40],
        [1, 18, 2, 9, 1],
        [(4, 0), (0, 1), (1, 2), (2, 3), (3, 1), (4, 4), (1, 1), (0, 1), (2, 0)],
        given=2,
    ),
    "one-token-responses": random_job([5, 13], [1, 1], [(0, 0), (1, 1), (1, 0)], given=2),
    "unused-context": random_job([8, 30, 6], [4, 5], [(2, 1), (0, 1)], given=2),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    config = MODELS[request.param]
    torch.manual_seed(3)
    eager = isinstance(config, Gemma2Config)
    loaded: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager" if eager else "sdpa"
    )
    return loaded.eval()


@pytest.mark.parametrize("max_batch_tokens", [16384, 64, 1])
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_scores_are_those_of_plain_forward_passes(model, job, max_batch_tokens):
    job = replace(job, outputs=ALL)
    scores = GroupScorer(model, max_batch_tokens).score(job)
    expected = plain_log_probs(model, job)
    rows = np.arange(len(expected))
    np.testing.assert_allclose(scores.sampled, expected[rows, tokens_of_pairs(job)], atol=1e-4)
    np.testing.assert_allclose(
        scores.given, np.take_along_axis(expected, given_of_pairs(job), axis=1), atol=1e-4
    )
    best = np.sort(expected, axis=1)[:, : -ALL.top_k - 1 : -1]
    np.testing.assert_allclose(scores.top_k_log_probs, best, atol=1e-4)
    np.testing.assert_allclose(
        np.take_along_axis(expected, scores.top_k_ids, axis=1), best, atol=1e-4
    )
    entropy = -(np.exp(expected) * expected).sum(axis=1)
    np.testing.assert_allclose(scores.entropy, entropy, atol=1e-4)


def test_only_what_is_asked_for_comes_back(model):
    job = random_job([5], [3], [(0, 0)], outputs=Outputs(sampled=False, entropy=True))
    scores = GroupScorer(model, 100).score(job)
    assert scores.sampled is None
    assert scores.top_k_ids is None
    assert scores.given is None
    assert scores.entropy is not None
    assert scores.entropy.shape == (3,)


def test_the_context_matters_to_these_models(model):
    """Parity would mean nothing if every context gave the same log probs."""
    job = random_job([12, 12], [6], [(0, 0), (1, 0)])
    scores = GroupScorer(model, 1000).score(job)
    assert scores.sampled is not None
    assert np.abs(scores.sampled[:6] - scores.sampled[6:]).max() > 0.05


def test_the_check_ends_the_work_between_batches():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS["llama"]).eval()
    passes = []
    model.base_model.register_forward_hook(lambda *_: passes.append(None))

    class Stop(Exception):
        pass

    def check() -> None:
        if len(passes) == 3:
            raise Stop

    job = random_job([20] * 4, [10] * 4, [(i, i) for i in range(4)])
    with pytest.raises(Stop):
        GroupScorer(model, 1).score(job, check)
    assert len(passes) == 3


def test_a_recurrent_model_is_refused_by_name():
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match=r"MambaForCausalLM .*LinearAttentionLayer"):
        check_shareable(model)
