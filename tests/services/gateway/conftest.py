"""A real teacher with a byte-level tokenizer, and gateways in front of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.tokenizer import Tokenizer
from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer
from tests.teacher_process import serve_teacher
from tests.tiny_models import write_tiny_llama


@pytest.fixture(scope="session")
def byte_level_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer writes every text and has a chat template."""
    folder = tmp_path_factory.mktemp("byte-level")
    tokenizer = byte_level_tokenizer()
    write_tiny_llama(
        folder,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def byte_level_teacher(
    byte_level_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Its address."""
    folder = tmp_path_factory.mktemp("teacher")
    with serve_teacher(byte_level_model, folder, ["--device", "cpu"]) as address:
        yield address


@pytest.fixture(scope="session")
def tokenizer(byte_level_model: Path) -> Tokenizer:
    """The teacher's, as the gateway loads it."""
    return Tokenizer.load(byte_level_model)
