import json
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from counterhint.command_line import run_command
from counterhint.errors import InputError, InvalidJob
from teacher_server.bench.job import GroupShape
from teacher_server.bench.served import ServedFigures, bench_against, bench_served
from teacher_server.cli import BenchScoring
from tests.teacher_process import serve_teacher
from tests.teacher_server.bench.vllm_http_server import serve_openai
from tests.tiny_models import write_tiny_llama

SHAPE = GroupShape(group=4, wrong=2, context_tokens=70, response_tokens=20)
NAIVE, COMPUTED = 12 * 90, 4 * 70 + 12 * 20
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that vLLM's attention for CPUs takes."""
    folder = tmp_path_factory.mktemp("bench") / "model"
    write_tiny_llama(folder, hidden_size=128)
    return folder


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    """A real teacher on the model."""
    with serve_teacher(model, model) as address:
        yield address


def test_the_whole_way_is_timed_on_fresh_jobs(address: str) -> None:
    figures = bench_served(address, SHAPE, repeats=2)
    assert figures.engine == "transformers"
    assert (figures.tokens_naive, figures.tokens_computed) == (NAIVE, COMPUTED)
    assert 0 < figures.engine_seconds < figures.seconds
    assert figures.wait_seconds >= 0
    assert figures.outside_share == 1 - figures.engine_seconds / figures.seconds


def test_the_command_prints_the_figures_of_an_address(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--url", address, "--group", "3", "--wrong", "1", "--context-tokens", "9"]
    arguments += ["--response-tokens", "4", "--repeats", "1", "--json"]
    assert run_command(BenchScoring, "counterhint bench scoring", arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == [field.name for field in fields(ServedFigures)]
    assert figures["tokens_naive"] == 6 * 13


def test_a_job_that_the_teacher_does_not_take_is_refused(address: str) -> None:
    with pytest.raises(InvalidJob, match="257 tokens long"):
        bench_served(address, GroupShape(3, 1, 200, 57), repeats=1)


def test_nobody_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_server.bench.served.CONNECT_SECONDS", 2.0)
    # One try, with all of that time: of a later one, only the time-out might be told.
    monkeypatch.setattr("counterhint.client.FIRST_PAUSE", 3600.0)
    with pytest.raises(InputError, match=r"--url unix://.*start a teacher there"):
        bench_served(f"unix://{tmp_path}/nobody.sock", SHAPE, repeats=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", NOBODY], f"--against {NOBODY}: give --url as well"),
        (["--url", "unix:///t.sock", "--model", "m"], "--model does not go with --url"),
        (["--engine-arg", "a=1"], "--engine-arg does not go with --engine transformers"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(BenchScoring, "counterhint bench scoring", arguments) == 2
    assert message in capsys.readouterr().err


def test_nobody_at_the_url_of_the_other_server(address: str) -> None:
    with pytest.raises(InputError, match=f"--against {NOBODY}: no answer.*start a vLLM server"):
        bench_against(address, NOBODY, SHAPE, repeats=1)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://[", "http://a:b"])
def test_what_is_no_url_is_named(address: str, url: str) -> None:
    with pytest.raises(InputError, match=r"--against .*give http://host:port"):
        bench_against(address, url, SHAPE, repeats=1)


class OtherApi(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that is not vLLM: its models have no length."""

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize("handler", [SimpleHTTPRequestHandler, OtherApi])
def test_a_server_that_is_not_vllm_is_named(
    address: str, tmp_path: Path, handler: type[BaseHTTPRequestHandler]
) -> None:
    if handler is SimpleHTTPRequestHandler:
        factory = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    else:
        factory = handler
    with ThreadingHTTPServer(("127.0.0.1", 0), factory) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(InputError, match="/v1/models is not answered as vLLM does"):
                bench_against(address, f"http://127.0.0.1:{server.server_port}", SHAPE, repeats=1)
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """vLLM's own server on the same model."""
    with serve_openai(model, max_model_len=120) as url:
        yield url


@pytest.mark.vllm
@pytest.mark.parametrize("top_k", [0, 3])
def test_both_servers_give_the_same_numbers(address: str, url: str, top_k: int) -> None:
    figures = bench_against(address, url, GroupShape(4, 2, 70, 20, top_k), repeats=1)
    assert (figures.ours.tokens_naive, figures.ours.tokens_computed) == (NAIVE, COMPUTED)
    assert figures.ceiling == NAIVE / COMPUTED
    assert figures.speedup == figures.seconds_against / figures.ours.seconds
    assert figures.max_abs_diff <= 1e-3
    # A dictionary with `top_k` entries and the token's own for each token of the prompt.
    assert figures.bytes_against > 90 / 20 * 50 * (top_k or 1)


@pytest.mark.vllm
def test_more_entries_than_the_server_gives_are_refused(address: str, url: str) -> None:
    with pytest.raises(
        InputError, match=r"it refuses prompt_logprobs=21 .*HTTP 400.*--max-logprobs"
    ):
        bench_against(address, url, GroupShape(4, 2, 70, 20, top_k=21), repeats=1)


@pytest.mark.vllm
def test_a_model_too_short_for_the_pairs_is_named(address: str, url: str) -> None:
    with pytest.raises(InputError, match=r"takes 120 tokens, a pair .* has 121.*--max-model-len"):
        bench_against(address, url, GroupShape(4, 2, 100, 20), repeats=1)
