"""A real teacher with a byte-level tokenizer, and gateways in front of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.tokenizer import Tokenizer
from tests.byte_level_model import write_byte_level_llama
from tests.teacher_process import serve_teacher


@pytest.fixture(scope="session")
def byte_level_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer writes every text and has a chat template."""
    folder = tmp_path_factory.mktemp("byte-level")
    write_byte_level_llama(folder)
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
