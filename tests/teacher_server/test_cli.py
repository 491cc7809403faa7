"""The commands as child processes: what a user sees."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from counterhint import ScoringClient
from counterhint.command_line import EXIT_ENGINE_DEAD, run_command
from teacher_server.cli import BenchScoring, Serve
from tests.teacher_server.jobs import SMALL, random_job


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_teacher_is_served_from_the_command_line_until_it_is_terminated(model_folder):
    process = start("teacher", "serve", "--model", str(model_folder), "--listen", "127.0.0.1:0")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("teacher tiny (weights ")
    with ScoringClient(line.split()[-1], timeout=240) as client:
        fingerprint = client.get_teacher().tokenizer_fingerprint
        job = random_job(**SMALL, tokenizer_fingerprint=fingerprint)
        assert client.score(job).job_id == "job"
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=240)
    assert process.returncode == 0
    assert rest == ""
    assert "Traceback" not in errors


def test_a_port_in_use_ends_with_one_line(model_folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        process = start("teacher", "serve", "--model", str(model_folder), "--listen", address)
        output, errors = process.communicate(timeout=240)
    assert (process.returncode, output) == (2, "")
    assert errors.startswith(f"counterhint teacher serve: --listen {address} cannot be used")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/no/such/folder"], "--model /no/such/folder: no such folder"),
        ([], "--model (or COUNTERHINT_TEACHER_MODEL): Field required"),
        (["--model", "/x", "--max-queued-tokens", "9"], "is below --max-job-tokens"),
        (["--model", "/x", "--listen", "0.0.0.0:1"], "--insecure"),
        (["--model", "/x", "--weights-root", "/absent/w"], "make it (mkdir -p /absent/w)"),
    ],
)
def test_what_cannot_be_used_ends_with_a_clear_message(capsys, arguments, message):
    assert run_command(Serve, "counterhint teacher serve", arguments) == 2
    assert message in capsys.readouterr().err


def test_the_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        run_command(Serve, "counterhint teacher serve", ["--help"])
    assert f"{EXIT_ENGINE_DEAD} when the engine has" in capsys.readouterr().out


def test_weights_roots_repeat_and_the_environment_counts(monkeypatch):
    monkeypatch.setenv("COUNTERHINT_TEACHER_DTYPE", "bfloat16")
    command = Serve(model=Path("m"), weights_root=[Path("a"), Path("b")])
    assert (command.dtype, command.weights_root) == ("bfloat16", [Path("a"), Path("b")])


def test_the_benchmark_prints_its_figures_as_json(capsys, model_folder):
    arguments = ["--engine", "transformers", "--json", "--group", "4", "--wrong", "2"]
    arguments += ["--context-tokens", "30", "--response-tokens", "10", "--repeats", "1"]
    arguments += ["--model", str(model_folder)]
    assert run_command(BenchScoring, "counterhint bench scoring", arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {
        "tokens_naive",
        "tokens_computed",
        "seconds_naive",
        "seconds_ours",
        "speedup",
        "max_abs_diff",
        "peak_bytes",
    }
    assert (figures["tokens_naive"], figures["tokens_computed"]) == (480, 240)
    assert figures["max_abs_diff"] <= 1e-4
    assert min(figures.values()) >= 0
    assert figures["peak_bytes"] > 0


def test_a_group_too_small_for_its_hints_is_refused(capsys):
    arguments = ["--group", "4", "--wrong", "3"]
    assert run_command(BenchScoring, "counterhint bench scoring", arguments) == 2
    assert "must be at least 5" in capsys.readouterr().err
