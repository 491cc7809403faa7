from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.teacher_server.engines.vllm.models import MODELS
from tests.teacher_server.engines.vllm.setups import ALL_SETUPS
from tests.teacher_server.engines.vllm.vllm_teacher import VllmTeacher


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `teacher` finds or makes models."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def teacher(request: pytest.FixtureRequest, models: Path) -> Iterator[VllmTeacher]:
    """The engine of the setup that a test names by `indirect`.

    Pytest sorts tests by their setups: each is started once, and ends before the next one starts.
    """
    setup = ALL_SETUPS[request.param]
    folder = models / setup.model
    if not folder.exists():
        MODELS[setup.model](folder)
    options = {**setup.options, **({"weights_roots": (models,)} if setup.takes_weights else {})}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in setup.environment.items():
            patch.setenv(name, value)
        with VllmTeacher(folder, setup.tolerances, **options) as teacher:
            yield teacher
