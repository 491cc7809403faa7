"""Settings of every test."""

import importlib.util

import pytest
from hypothesis import settings

# The same examples on every machine, and no verdict by the clock.
settings.register_profile("counterhint", deadline=None, derandomize=True)
settings.load_profile("counterhint")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs vLLM where it is not installed (`make test-vllm` has an environment)."""
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason="vllm is not installed"))
