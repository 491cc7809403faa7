from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.student_trainer.rollouts.vllm_processes import SamplingServer, write_student


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that vLLM can run on a CPU."""
    folder = tmp_path_factory.mktemp("llama")
    write_student(folder, "llama")
    return folder


@pytest.fixture(scope="session")
def llama_server(llama_folder: Path) -> Iterator[SamplingServer]:
    """A sampling server for students of that shape; starting one takes long."""
    with SamplingServer(llama_folder) as server:
        yield server
