"""`counterhint teacher serve --engine vllm` as a child process."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from counterhint import ScoringClient
from counterhint.command_line import EXIT_ENGINE_DEAD
from teacher_server.private_folder import PREFIX, PrivateFolder
from tests.processes import running_in, wait_until
from tests.teacher_server.jobs import random_job
from tests.tiny_models import write_tiny_llama

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_tiny_llama(folder, hidden_size=128)
    return folder


@contextmanager
def serving(
    folder: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """The command in a session of its own, of which nothing is left behind."""
    command = [sys.executable, "-m", "deploy.cli", "teacher", "serve", "--engine", "vllm"]
    command += ["--model", str(folder), "--listen", "127.0.0.1:0", "--check-seconds", "3600"]
    process = subprocess.Popen(
        [*command, *arguments],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for number in running_in(process):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(number, signal.SIGKILL)
        process.communicate()


def ready(process: "subprocess.Popen[bytes]") -> str:
    """The address, once the teacher is ready; nothing else is printed before."""
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if not line.startswith("teacher "):
        process.kill()
        pytest.fail(f"{line}\n{process.communicate()[1].decode()}")
    return line.split()[-1]


def score_one(address: str) -> None:
    with ScoringClient(address, timeout=300) as client:
        fingerprint = client.get_teacher().tokenizer_fingerprint
        job = random_job((40,), (8,), [(0, 0)], tokenizer_fingerprint=fingerprint)
        assert client.score(job).job_id == "job"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short name: the paths of vLLM's sockets hold 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


def test_sigterm_ends_the_teacher_and_vllm_with_it(folder, temporary):
    with serving(folder, environment={"TMPDIR": str(temporary)}) as process:
        score_one(ready(process))
        assert any(command.startswith("VLLM::") for command in running_in(process).values())
        (files,) = temporary.iterdir()
        assert files.name.startswith(PREFIX)
        process.terminate()
        rest, errors = process.communicate()
        assert process.returncode == 0
        assert rest == b""
        assert b"Traceback" not in errors
        assert b"TypeError" not in errors
        wait_until(lambda: not running_in(process))
        assert not list(temporary.iterdir())


def test_a_model_that_vllm_cannot_load_ends_the_teacher(folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with serving(model) as process:
        _, errors = process.communicate()
        assert process.returncode == EXIT_ENGINE_DEAD
        assert f"vLLM could not load --model {model}" in errors.decode().splitlines()[-1]
        wait_until(lambda: not running_in(process))


def test_vllm_ends_with_a_teacher_that_is_killed_and_the_next_one_removes_its_files(
    folder, temporary, monkeypatch
):
    with serving(folder, environment={"TMPDIR": str(temporary)}) as process:
        score_one(ready(process))
        process.kill()
        process.wait()
        wait_until(lambda: not running_in(process))
        (left,) = temporary.iterdir()
        assert list(left.glob("vllm_dist_*"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    PrivateFolder().close()
    assert not list(temporary.iterdir())


def test_a_killed_engine_ends_the_teacher_although_nothing_is_asked_of_it(folder):
    with serving(folder) as process:
        ready(process)
        (engine,) = (
            number
            for number, command in running_in(process).items()
            if command.startswith("VLLM::EngineCore")
        )
        os.kill(engine, signal.SIGKILL)
        assert process.wait() == EXIT_ENGINE_DEAD
        wait_until(lambda: not running_in(process))


def test_an_argument_that_vllm_does_not_know_ends_with_a_clear_message(folder):
    with serving(folder, ["--engine-arg", "tensor_parallel=2"]) as process:
        output, errors = process.communicate()
        assert (process.returncode, output) == (2, b"")
    assert b"serve: --engine-arg tensor_parallel=2: vLLM 0." in errors
    assert b"Traceback" not in errors
