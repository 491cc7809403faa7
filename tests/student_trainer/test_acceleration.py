from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, LlamaForCausalLM

from counterhint.errors import InputError
from student_trainer.acceleration import apply_attention, apply_liger
from tests.tiny_models import write_model, write_tiny_llama

CPU = torch.device("cpu")


def test_auto_on_a_cpu_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    before = dict(model.named_modules())
    assert apply_attention(model, "auto", torch.bfloat16, CPU) == "sdpa"
    assert not apply_liger(model, "auto", CPU)
    assert not apply_liger(model, "off", CPU)
    assert dict(model.named_modules()) == before


def test_implementations_that_are_asked_for_are_taken(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    logits = {}
    for wanted in ("eager", "sdpa"):
        assert apply_attention(model, wanted, torch.float32, CPU) == wanted
        assert model.config._attn_implementation == wanted
        logits[wanted] = model(ids).logits
    torch.testing.assert_close(logits["eager"], logits["sdpa"], atol=1e-4, rtol=1e-4)


def test_what_cannot_be_had_here_is_refused_with_the_remedy(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    with pytest.raises(InputError, match=r"student\.attention is flash_attention_2.*runs on cpu"):
        apply_attention(model, "flash_attention_2", torch.bfloat16, CPU)
    with pytest.raises(InputError, match=r"student\.liger is on.*runs on cpu"):
        apply_liger(model, "on", CPU)


def test_attention_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path, BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(InputError, match="BloomForCausalLM does not have"):
        apply_attention(model, "sdpa", torch.float32, CPU)
