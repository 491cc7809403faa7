"""Starts the services of `compose.yaml` as processes of this machine, as Compose would.

Their commands, environment, health checks and dependencies are those of the file. What is different
on this machine is a matter of names, and `Composition.local` is where they are translated:

    in a container                    here
    /run/secrets/NAME                 the folder of secrets
    a volume's or bind's target       its source, files translated; a folder for a named volume
    the working directory             a folder with `runs` and `recipes`
    services:50050, 0.0.0.0:50050     127.0.0.1 and a free port
    the image's entrypoint            this environment's counterhint, and redis-server
"""

import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.local.redis import find_redis_server
from tests.deploy.compose_project import REPOSITORY
from tests.programs import PATH

ENTRYPOINTS: Mapping[str, Sequence[str]] = {
    "counterhint/services": (sys.executable, "-m", "deploy.cli"),
    "counterhint/cpu": (sys.executable, "-m", "deploy.cli"),
    "counterhint/teacher": (sys.executable, "-m", "deploy.cli"),
    "redis": (),
    "prom/prometheus": ("prometheus",),
}
"""What each image starts its command with (redis: the command names the server)."""
HERE = ("0.0.0.0", "127.0.0.1", "localhost")
"""Hosts by which a container means itself."""
SECONDS = 600.0
"""A bound that only keeps a broken test from hanging."""


@contextmanager
def composition_of(services: Mapping[str, Mapping[str, Any]]) -> Iterator["Composition"]:
    """Services to start, in a new folder and with secrets of their own; ends those that run."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are too deep for sockets
        secrets = Path(folder) / "secrets"
        subprocess.run(
            [REPOSITORY / "deploy" / "make-secrets"],
            env={"PATH": "/usr/bin:/bin", "COUNTERHINT_SECRETS": str(secrets)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        composition = Composition(services, Path(folder), secrets)
        try:
            yield composition
        finally:
            composition.down()


class Composition:
    """The services of a profile as processes, in a folder of their own.

    Args:
        services: by name, with variables filled in.
        folder: where they run; short enough a path for sockets.
        secrets: the folder that `deploy/make-secrets` has filled.
    """

    def __init__(
        self, services: Mapping[str, Mapping[str, Any]], folder: Path, secrets: Path
    ) -> None:
        self.folder = folder
        self.secrets = secrets
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._services = services
        self._reserved: dict[tuple[str, str], socket.socket] = {}
        self._named = {name: name for name in services}
        for name, service in services.items():
            networks = service.get("networks", [])
            for network in networks.values() if isinstance(networks, dict) else []:
                self._named.update(dict.fromkeys((network or {}).get("aliases", []), name))
        (folder / "runs").mkdir()
        (folder / "recipes").symlink_to(REPOSITORY / "recipes")
        queue = secrets / "queue.yaml"  # it names the address of Redis
        queue.write_text(self._addresses("services", queue.read_text()))

    def port(self, service: str, port: str) -> int:
        """The port of this machine that stands for a container's.

        A socket that only has its address keeps it from whoever asks for any free port, and not
        from the service, which asks for this one with SO_REUSEADDR, as all of them do.
        """
        key = (service, port)
        if key not in self._reserved:
            reserved = self._reserved[key] = socket.socket()
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
        bound: int = self._reserved[key].getsockname()[1]
        return bound

    def local(self, service: str, text: str) -> str:
        """A word of a service's command, health check or variables, as it is on this machine."""
        text = text.replace("/run/secrets/", f"{self.secrets}/")
        for volume in self._services[service].get("volumes", []):
            source, target = self._mount(service, volume)
            text = re.sub(rf"(?<![\w/]){re.escape(target)}(?=/|$)", str(source), text)
        return self._addresses(service, text)

    def _addresses(self, service: str, text: str) -> str:
        """Words with the addresses of this machine."""

        def address(match: re.Match[str]) -> str:
            host = service if match["host"] in HERE else self._named.get(match["host"])
            if host is None:
                return match[0]
            return f"127.0.0.1:{self.port(host, match['port'])}"

        text = re.sub(r"(?P<host>[a-z][a-z-]*|\d+(?:\.\d+){3}):(?P<port>\d{4,5})\b", address, text)
        if service == "redis":  # its port stands alone
            text = re.sub(r"(?<!:)\b6379\b", str(self.port("redis", "6379")), text)
        return text

    def _mount(self, service: str, volume: str | Mapping[str, Any]) -> tuple[Path, str]:
        """Where a volume or bind lies here, and in the container."""
        if isinstance(volume, str):
            source, target = volume.split(":")[:2]
        else:
            source, target = volume["source"], volume["target"]
        if target == "/counterhint/runs":
            return self.folder / "runs", target
        if (REPOSITORY / source).is_file():
            copy = self.folder / f"{service}-{Path(source).name}"
            copy.write_text(self._addresses(service, (REPOSITORY / source).read_text()))
            return copy, target
        if source.startswith("."):
            return REPOSITORY / source, target
        folder = self.folder / f"volume-{source}"
        folder.mkdir(exist_ok=True)
        return folder, target

    def command(self, name: str) -> list[str]:
        """A service's whole command line here."""
        service = self._services[name]
        image = service["image"].partition(":")[0]
        words = [self.local(name, word) for word in service["command"]]
        return [*service.get("entrypoint", ENTRYPOINTS[image]), *words]

    def environment(self, name: str) -> dict[str, str]:
        """A service's variables, and of this machine's only what starts programs."""
        programs = PATH
        if name == "redis":
            programs = f"{find_redis_server().parent}:{programs}"
        given = self._services[name].get("environment", {})
        return {
            "PATH": programs,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            **{key: self.local(name, value) for key, value in given.items()},
        }

    def up(self, name: str) -> None:
        """Starts a service after what it depends on is as it must be, and waits until it is well.

        A service without a health check is only started.
        """
        if name in self.processes:
            return
        service = self._services[name]
        for other, dependency in service.get("depends_on", {}).items():
            if other not in self._services:
                assert dependency.get("required") is False, f"{name} needs {other}"
                continue
            self.up(other)
            if dependency["condition"] == "service_completed_successfully":
                assert self.wait(other) == 0, self.log(other)
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name),
                cwd=self.folder,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + SECONDS
        while "healthcheck" in service and not self.is_healthy(name):
            assert self.processes[name].poll() is None, f"{name} has ended:\n{self.log(name)}"
            assert time.monotonic() < deadline, f"{name} is not well:\n{self.log(name)}"
            time.sleep(0.1)

    def is_healthy(self, name: str) -> bool:
        """What a service's health check says."""
        kind, *words = (
            self.local(name, word) for word in self._services[name]["healthcheck"]["test"]
        )
        command = words if kind == "CMD" else ["/bin/sh", "-c", *words]
        checked = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(name),
            capture_output=True,
            timeout=SECONDS,
        )
        return checked.returncode == 0

    def wait(self, name: str) -> int:
        """The exit code of a service that ends by itself."""
        return self.processes[name].wait(SECONDS)

    def log(self, name: str) -> str:
        """What a service has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def down(self) -> dict[str, int]:
        """Ends all, those that depend on others first; gives their exit codes."""
        codes = {}
        for name, process in reversed(self.processes.items()):
            process.terminate()
            try:
                codes[name] = process.wait(SECONDS / 4)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        for reserved in self._reserved.values():
            reserved.close()
        return codes
