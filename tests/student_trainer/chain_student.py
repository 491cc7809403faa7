"""A student for whole runs that need not learn."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from student_trainer.tiny.tokenizer import build_tokenizer


def write_chain_student(folder: Path, *, width: int, heads: int, kv_heads: int) -> Path:
    """Writes a randomly initialised Llama that speaks the words of the chain task."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
