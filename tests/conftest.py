"""Settings of every test."""

import importlib.util

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every machine, and no verdict by the clock.
settings.register_profile(
    "counterhint",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("counterhint")


VLLM_SECONDS = 1800
"""A test's time-out where vLLM starts: a quarter of a minute, on a busy machine some minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what this machine cannot run.

    vLLM has an environment of its own (`make test-vllm`). A test marked `gpu(n)` needs `n` GPUs.
    """
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.timeout(VLLM_SECONDS))
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason="vllm is not installed"))
    needing = [(item, mark.args[0]) for item in items if (mark := item.get_closest_marker("gpu"))]
    if needing:
        import torch

        for item, gpus in needing:
            if torch.cuda.device_count() < gpus:
                reason = f"needs {gpus} GPU{'s' * (gpus > 1)}: docs/gpu-checklist.md"
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows why a test had to be run again (`--reruns`): a race, to be mended."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed at first: {report.nodeid}")
        terminalreporter.line(report.longreprtext)
