"""The processes under test: a teacher, the services on either queue, and their Redis."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from counterhint import ScoringClient
from deploy.local.redis import LocalRedis
from tests.fuzz.grpc_target import GrpcTarget
from tests.fuzz.http_target import HttpTarget
from tests.processes import wait_until
from tests.tiny_models import write_tiny_llama

_GATEWAY = re.compile(r"gateway on (http\S+)")
_RECORD = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)
START_SECONDS = 240.0
"""On a machine that has much else to do."""
RESULT_SECONDS = 5.0
"""So short that what is kept of finished jobs is at its full size early in a campaign."""
CACHE_BYTES = 4 << 20
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
WEIGHTS = "weights"
"""The folder from which the teacher may read weights."""


@dataclass
class Process:
    """A child process and what it has written."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    @property
    def resident(self) -> int:
        """Bytes of memory that it has now (Linux)."""
        return self._status("VmRSS")

    @property
    def most_resident(self) -> int:
        """Bytes of memory that it has ever had."""
        return self._status("VmHWM")

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} has ended")

    def complaints(self) -> list[str]:
        """What is wrong with it, if anything: it has ended, or a traceback in its log."""
        found = []
        if self.child.poll() is not None:
            found.append(f"{self.name} ended with {self.child.returncode}")
        records = _RECORD.split(self.log.read_text(errors="replace"))
        found += [f"{self.name}: {record[:5000]}" for record in records if _is_bug(record)]
        return found


def _is_bug(record: str) -> bool:
    """Whether a log record shows an exception that nobody expected.

    Not of ours: gRPC logs it when a client leaves at the moment in which its call is answered. The
    core then refuses the status before grpc.aio has read that the client left, so that it takes it
    for a fault; no method could know.
    """
    left = "ExecuteBatchError" in record and "SendStatusFromServer" in record
    return "Traceback" in record and not left


@dataclass
class System:
    """All processes, and where they listen."""

    folder: Path
    processes: dict[str, Process]
    grpc: dict[str, Path]
    """The unix sockets of the gRPC servers, by name."""
    http: dict[str, str]
    """The URLs of the gateways, by the same names."""


@contextmanager
def running_system(folder: Path) -> Iterator[System]:
    """Starts everything in a folder with a short path; the services are ready."""
    model = folder / "model"
    model.mkdir()
    write_tiny_llama(model)
    (model / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    root = make_weights_root(folder)
    system = System(folder, {}, {}, {})
    with ExitStack() as stack:
        redis = LocalRedis(folder / "redis")
        log = open(folder / "redis.out", "wb")  # noqa: SIM115 - closed by the stack
        stack.callback(log.close)
        child = subprocess.Popen(redis.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(_end, child)
        system.processes["redis"] = Process("redis", child, folder / "redis.out")
        redis.wait_until_ready()

        def serve(name: str, *words: str) -> None:
            socket = folder / f"{name}.sock"
            process = _start(folder, name, *words, "--listen", f"unix://{socket}")
            stack.callback(_end, process.child)
            system.processes[name], system.grpc[name] = process, socket

        teacher = f"unix://{folder / 'teacher.sock'}"
        services = ("services", "run", "--teachers", teacher)
        services += ("--result-seconds", str(RESULT_SECONDS), "--tokenizer", str(model))
        services += ("--http-listen", "127.0.0.1:0")
        serve(
            *("teacher", "teacher", "serve", "--model", str(model), "--max-job-tokens", "2048"),
            *("--weights-root", str(root), "--content-cache-bytes", str(CACHE_BYTES)),
        )
        serve("memory", *services)
        serve("redis-queue", *services, "--redis", redis.url)
        for name, socket in system.grpc.items():
            _wait_for_teacher(system.processes[name], socket)
            if found := _GATEWAY.search(system.processes[name].log.read_text()):
                system.http[name] = found[1]
        yield system


async def open_targets(
    system: System, servers: Collection[str], stack: AsyncExitStack
) -> list[GrpcTarget | HttpTarget]:
    """Connections to the servers of these kinds, `grpc` and `http`, which the stack closes."""
    root = system.folder / WEIGHTS
    grpc = [GrpcTarget(name, socket, root) for name, socket in system.grpc.items()]
    http = [HttpTarget(f"{name}, HTTP", url) for name, url in system.http.items()]
    chosen = [*(grpc if "grpc" in servers else ()), *(http if "http" in servers else ())]
    return [await stack.enter_async_context(target) for target in chosen]


def make_weights_root(folder: Path) -> Path:
    """A weights folder with everything in it that is no good."""
    root = folder / WEIGHTS
    (root / "folder.safetensors").mkdir(parents=True)
    (root / "no-safetensors.safetensors").write_bytes(b"\xff" * 64)
    (root / "here.safetensors").write_bytes(b"")
    (folder / "outside.safetensors").write_bytes(b"secret")
    (root / "link.safetensors").symlink_to(folder / "outside.safetensors")
    (root / "loop.safetensors").symlink_to(root / "loop.safetensors")
    return root


def _start(folder: Path, name: str, *words: str) -> Process:
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
    return Process(name, child, log)


def _wait_for_teacher(process: Process, socket: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    wait_until(lambda: socket.exists() or process.child.poll() is not None, START_SECONDS)
    assert process.child.poll() is None, process.log.read_text(errors="replace")[-3000:]
    with ScoringClient(f"unix://{socket}") as client:
        client.get_teacher(timeout=deadline - time.monotonic())


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(timeout=20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
