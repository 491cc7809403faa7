from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from student_trainer.models import Student, StudentConfig, load_student
from student_trainer.tiny.tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised student that speaks the words of the chain task."""
    folder = tmp_path_factory.mktemp("student")
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
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


@pytest.fixture
def student(student_folder: Path) -> Student:
    return load_student(StudentConfig(model=student_folder, device="cpu"))
