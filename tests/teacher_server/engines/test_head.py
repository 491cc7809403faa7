import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig

from teacher_server.engines import head as head_module
from teacher_server.engines.head import Head

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
}


@pytest.fixture
def head() -> Head:
    torch.manual_seed(0)
    return Head(AutoModelForCausalLM.from_config(GraniteConfig(**SIZES, logits_scaling=3.0)))


@torch.inference_mode()
def test_scores_do_not_depend_on_the_chunks(head, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(23, 16, generator=generator)
    sampled = torch.randint(50, (23,), generator=generator)
    given = torch.randint(50, (23, 3), generator=generator)
    whole = head.score(hidden, sampled, given, top_k=5, entropy=True)
    monkeypatch.setattr(head_module, "LOGIT_CHUNK", 50 * 4)
    monkeypatch.setattr(head_module, "LEAST_ROWS", 1)
    chunked = head.score(hidden, sampled, given, top_k=5, entropy=True)
    assert whole.given is not None
    assert whole.entropy is not None
    for name in ("sampled", "top_k_ids", "top_k_log_probs", "given", "entropy"):
        torch.testing.assert_close(getattr(chunked, name), getattr(whole, name))
    log_probs = head.logits(hidden).log_softmax(-1)
    torch.testing.assert_close(whole.entropy, -(log_probs.exp() * log_probs).sum(-1))
    torch.testing.assert_close(whole.given, log_probs.gather(-1, given))


@pytest.mark.parametrize(
    "config",
    [GraniteConfig(**SIZES, logits_scaling=4.0), CohereConfig(**SIZES, logit_scale=0.2)],
    ids=["granite", "cohere"],
)
@torch.inference_mode()
def test_a_factor_behind_the_head_is_applied(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(10)[None]
    hidden = model.base_model(ids).last_hidden_state[0]
    torch.testing.assert_close(Head(model).logits(hidden), model(ids).logits[0])


@torch.inference_mode()
def test_log_probs_of_a_bfloat16_model_are_float32():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GraniteConfig(**SIZES), dtype=torch.bfloat16)
    scores = Head(model).score(torch.ones(2, 16, dtype=torch.bfloat16), torch.tensor([1, 2]))
    assert scores.sampled.dtype == torch.float32
