from pathlib import Path

import pytest

from student_trainer.models import Student, StudentConfig, load_student
from tests.student_trainer.chain_student import write_chain_student


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random student of the chain task."""
    folder = tmp_path_factory.mktemp("student")
    return write_chain_student(folder, width=32, heads=4, kv_heads=2)


@pytest.fixture
def student(student_folder: Path) -> Student:
    return load_student(StudentConfig(model=student_folder, device="cpu"))
