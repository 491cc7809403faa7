"""A site for each test, and one teacher for all that do not end it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.site import Site, Teacher
from tests.tiny_models import write_tiny_llama


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of 64 tokens, which reads at most 256."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_llama(folder)
    return folder


@pytest.fixture(scope="session")
def weights_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the teacher takes named weights from."""
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def teacher(
    model: Path, weights_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Teacher]:
    """A real teacher; tests may let it stand still, but not end it."""
    folder = tmp_path_factory.mktemp("teacher")
    # Jobs of one content all reach the engine.
    teacher = Teacher(
        model, folder, "--weights-root", str(weights_root), "--content-cache-bytes", "0"
    )
    yield teacher
    teacher.kill()


@pytest.fixture(scope="session")
def fingerprint(teacher: Teacher) -> str:
    """Of the teacher's tokenizer."""
    return teacher.fingerprint


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site of its own, with a Redis that runs."""
    site = Site(tmp_path)
    site.redis.start()
    yield site
    site.end()
