"""vLLM's own HTTP server as a child process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.processes import wait_until

ARGUMENTS = ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
START_SECONDS = 600.0


@contextmanager
def serve_openai(model: Path, max_model_len: int) -> Iterator[str]:
    """Serves a model on a free port of this machine; gives the URL once it answers."""
    with reserved_port() as port, _server(model, max_model_len, port) as url:
        yield url


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free port that nobody else is given meanwhile.

    A server that sets SO_REUSEADDR, as vLLM's does, can still bind it: nobody listens on it yet.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def _server(model: Path, max_model_len: int, port: int) -> Iterator[str]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), *ARGUMENTS]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    process = subprocess.Popen(
        [*command, "--max-model-len", str(max_model_len)], env={**os.environ, **environment}
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, "vLLM's server has ended"
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, START_SECONDS)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=240)
