import io
import json
from contextlib import redirect_stdout
from dataclasses import fields
from typing import Any

import pytest

from counterhint.command_line import run_command
from teacher_server.cli import BenchScoring
from tests.tiny_models import write_tiny_llama

pytestmark = pytest.mark.vllm

SHAPE = ["--group", "4", "--wrong", "2", "--context-tokens", "70", "--response-tokens", "20"]
BLOCK = 32
"""Tokens of a cache block: the hits of a context of 70 tokens end after two."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command prints, run once as a user does."""
    folder = tmp_path_factory.mktemp("bench")
    write_tiny_llama(folder / "model", hidden_size=128)
    config = folder / "bench.yaml"
    config.write_text("engine_arg: [kv_cache_memory_bytes=67108864]\n")
    arguments = ["--engine", "vllm", "--model", str(folder / "model"), "--config", str(config)]
    arguments += [*SHAPE, "--top-k", "3", "--repeats", "1", "--json"]
    with redirect_stdout(io.StringIO()) as printed:
        assert run_command(BenchScoring, "counterhint bench scoring", arguments) == 0
    return dict(json.loads(printed.getvalue()))


def test_every_figure_is_printed(figures: dict[str, Any]) -> None:
    from teacher_server.bench.vllm import VllmFigures

    assert list(figures) == [field.name for field in fields(VllmFigures)]
    assert figures["scoring_path"] == "response-rows"


def test_tokens_are_counted(figures: dict[str, Any]) -> None:
    pairs, contexts = 12, 4
    assert figures["tokens_naive"] == pairs * 90
    assert figures["tokens_computed"] == contexts * 70 + pairs * 20
    # Each context's first pair computes all of it, the others what is behind its last whole block.
    behind = 70 % BLOCK
    assert figures["tokens_computed_ours"] == contexts * 90 + (pairs - contexts) * (behind + 20)
    assert figures["second_requests"] == 0


def test_both_ways_give_the_same_numbers(figures: dict[str, Any]) -> None:
    assert figures["max_abs_diff"] <= 1e-4


def test_times_and_memory_hang_together(figures: dict[str, Any]) -> None:
    assert figures["ceiling"] == figures["tokens_naive"] / figures["tokens_computed"]
    assert figures["speedup"] == figures["seconds_naive"] / figures["seconds_ours"]
    assert figures["share_of_ceiling"] == figures["speedup"] / figures["ceiling"]
    for way in ("naive", "ours"):
        assert 0 < figures[f"step_seconds_{way}"] < figures[f"seconds_{way}"]
    inside = figures["step_seconds_ours"] / figures["seconds_ours"]
    assert figures["outside_share"] == 1 - inside
    assert 67108864 < figures["peak_bytes_ours"] <= figures["peak_bytes_naive"]
