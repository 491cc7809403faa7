"""What runs in the background of every launcher: Redis, teachers, and queue services for each."""

import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterhint.errors import InputError
from deploy.local.commands import counterhint
from deploy.local.methods import TeacherName
from deploy.local.redis import LocalRedis
from deploy.local.supervisor import Service

_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher to serve."""

    name: TeacherName
    """Which of the two it is."""
    model: Path
    """Folder of its model."""
    weights_root: Path
    """Folder that the weights which runs publish may come from."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages in a browser, of runs as they run."""

    listen: str
    """`host:port`."""
    runs_dir: Path
    """The folder that holds the runs' folders."""

    @classmethod
    def on_free_port(cls, runs_dir: Path) -> "Pages":
        """On a port of this machine's loopback that nobody listens on now."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            return cls(f"127.0.0.1:{free.getsockname()[1]}", runs_dir)

    @property
    def url(self) -> str:
        """Where a browser finds them."""
        return f"http://{self.listen}"

    def is_ready(self) -> bool:
        """Whether they are there."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except OSError:  # not listening yet
            return False


def background_services(
    teachers: Sequence[Teacher],
    sockets: Path,
    logs: Path,
    environment: Mapping[str, str],
    pages: Pages | None = None,
) -> Iterator[Service]:
    """Redis, the teachers and the queue services, in the order in which they start.

    Each teacher has queue services and a database of Redis of its own: a queue's teachers all
    serve the same model.

    Args:
        teachers: what to serve.
        sockets: a private folder for sockets and Redis's data.
        logs: where each process's output goes.
        environment: variables of all but Redis.
        pages: where the gateway of the first teacher's queue shows runs; None for no gateway.
    """
    redis = LocalRedis(sockets)
    yield Service(
        name="redis",
        command=(*redis.command, "--logfile", ""),  # to its output, as the others
        is_ready=lambda: _answers(redis),
        log=logs / "redis.log",
    )
    for database, teacher in enumerate(teachers):
        suffix = f"-{teacher.name}" if len(teachers) > 1 else ""
        listens = _address(sockets, "teacher", teacher.name)
        intake = scoring_address(sockets, teacher.name)
        yield Service(
            name=f"teacher{suffix}",
            command=tuple(
                counterhint(
                    *("teacher", "serve", "--model", str(teacher.model), "--listen", listens),
                    *("--weights-root", str(teacher.weights_root.resolve())),
                )
            ),
            is_ready=partial(is_serving, listens),
            log=logs / f"teacher{suffix}.log",
            environment=environment,
        )
        yield Service(
            name=f"services{suffix}",
            command=tuple(
                counterhint(
                    *("services", "run", "intake", "dispatcher"),
                    *("--listen", intake, "--teachers", listens),
                    *("--redis", f"{redis.url}?db={database}"),
                )
            ),
            is_ready=partial(is_serving, intake),
            log=logs / f"services{suffix}.log",
            environment=environment,
        )
    if pages is not None:
        yield Service(
            name="gateway",
            command=tuple(
                counterhint(
                    *("services", "run", "gateway", "--redis", f"{redis.url}?db=0"),
                    *("--http-listen", pages.listen, "--runs-dir", str(pages.runs_dir)),
                    *("--tokenizer", str(teachers[0].model)),
                )
            ),
            is_ready=pages.is_ready,
            log=logs / "gateway.log",
            environment=environment,
        )


def scoring_address(sockets: Path, teacher: TeacherName) -> str:
    """Where runs send what that teacher is to score."""
    return _address(sockets, "intake", teacher)


def is_serving(address: str) -> bool:
    """Whether the gRPC server at an address says that it is ready (grpc.health.v1)."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.RpcError:  # not listening yet
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, with a path short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="counterhint-"))
    try:
        if len(bytes(folder / "teacher-large.sock")) > _LONGEST_SOCKET_PATH:
            raise InputError(
                f"{folder} is too long a path for unix sockets: set TMPDIR to a shorter one"
            )
        yield folder
    finally:
        shutil.rmtree(folder)


def _address(sockets: Path, what: str, teacher: TeacherName) -> str:
    return f"unix://{sockets / what}-{teacher}.sock"


def _answers(redis: LocalRedis) -> bool:
    try:
        redis.wait_until_ready(timeout=0.0)
    except InputError:
        return False
    return True
