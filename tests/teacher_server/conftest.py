from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from teacher_server.engines.transformers import TransformersEngine, TransformersOptions
from tests.teacher_server.broken_child import BrokenTeacher
from tests.tiny_models import write_tiny_llama


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_llama(folder)
    return folder


@pytest.fixture
def engine(model_folder: Path, tmp_path: Path) -> TransformersEngine:
    """A real engine that takes named weights from `tmp_path`, two at a time."""
    return TransformersEngine(
        TransformersOptions(
            model_folder, device="cpu", max_job_tokens=500, weights_roots=(tmp_path,)
        )
    )


@pytest.fixture
def start_broken(tmp_path: Path) -> Iterator[Callable[..., BrokenTeacher]]:
    """Starts teachers that break on demand, with `name=value` of `ServerOptions`."""
    teachers: list[BrokenTeacher] = []

    def start(*options: str) -> BrokenTeacher:
        teachers.append(BrokenTeacher(tmp_path, *options))
        return teachers[-1]

    yield start
    for teacher in teachers:
        teacher.process.kill()
        teacher.process.communicate()
