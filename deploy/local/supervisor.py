"""Keeps child processes running, and ends all of them when it ends.

Services (Redis, a teacher, the queue services) run in the background with a log file each and are
started again when they die. Commands run in the foreground: one on the user's terminal, or several
with a log file each.
Everything happens in the thread that uses the `Supervisor`: it looks after the services while it
waits. That thread must be the main thread, which is the one that receives signals and the one whose
end the children are tied to (see `deploy.local.tether`).
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

from counterhint.command_line import EXIT_BAD_INPUT
from counterhint.errors import InputError

_TETHER = Path(__file__).with_name("tether.py")
_LOOK_SECONDS = 0.1
_PROBE_SECONDS = 0.25
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.2, 5.0
_SHOWN_LOG_LINES = 15
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServiceFailed(Exception):
    """A service cannot be kept running; the text shows the end of its log."""


@dataclass(frozen=True, slots=True)
class Service:
    """A process to keep running."""

    name: str
    """How messages call it: `teacher`."""
    command: tuple[str, ...]
    """Program and arguments."""
    is_ready: Callable[[], bool]
    """Whether it does its work; asked often, so it must answer within about a second."""
    log: Path
    """Where its output goes; added to when it is started again."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of the launcher's own."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command that is run to its end."""

    name: str
    """How messages call it."""
    command: tuple[str, ...]
    """Program and arguments."""
    log: Path
    """Where its output goes; replaced."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of the launcher's own."""


@dataclass(slots=True)
class _Running:
    """A service and the state of its process."""

    service: Service
    process: subprocess.Popen[bytes]
    started: float
    log_offset: int
    """Where the output of this start begins in the log."""
    ready: bool = False
    was_ready: bool = False
    """Whether any start of it got ready: then what it was given can be used."""
    next_probe: float = 0.0
    failures: int = 0
    """Starts in a row that ended before the service was ready, or the one end after it was."""
    restart_at: float | None = None


class Supervisor:
    """A context manager whose child processes end with it.

    Args:
        tell: given a line for the user when a service dies and is started again.
        folder: working directory of the child processes; this process's own when None.
        max_restarts: starts in a row that may fail before it gives up.
        start_seconds: time that a service may take until it is ready.
        grace_seconds: time that a process may take to end before it is killed.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        folder: Path | None = None,
        max_restarts: int = 5,
        start_seconds: float = 120.0,
        grace_seconds: float = 5.0,
    ) -> None:
        self._tell = tell
        self._folder = folder
        self._max_restarts = max_restarts
        self._start_seconds = start_seconds
        self._grace_seconds = grace_seconds
        self._services: list[_Running] = []
        self._foreground: list[subprocess.Popen[bytes]] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _ENDING_SIGNALS:
            handler = signal.default_int_handler if number == signal.SIGINT else _exit_by_signal
            self._handlers[number] = signal.signal(number, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in self._handlers:  # ending takes a bounded time and must not be cut short
            signal.signal(number, signal.SIG_IGN)
        for process in self._foreground:
            self._end(process)
        for running in reversed(self._services):
            self._end(running.process)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, service: Service) -> None:
        """Starts a service; `wait_until_ready` waits for it."""
        service.log.parent.mkdir(parents=True, exist_ok=True)
        self._services.append(_Running(service, *_spawn(service, self._folder)))

    def wait_until_ready(self) -> None:
        """Waits until every service is ready.

        Raises:
            InputError: a service ended because of what it was given.
            ServiceFailed: one keeps dying, or is not ready in time.
        """
        while not all(running.ready for running in self._services):
            self.watch()
            time.sleep(_LOOK_SECONDS)

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        output: IO[Any] | None = None,
    ) -> int:
        """Runs a command on the user's terminal while the services are looked after.

        Args:
            command: program and arguments.
            environment: variables on top of the launcher's own.
            output: where its standard output goes instead of the launcher's.

        Returns:
            Its exit code (negative: the signal that ended it).

        Raises:
            InputError, ServiceFailed: see `wait_until_ready`.
        """
        process = self._start(command, environment or {}, stdout=output)
        while True:
            try:
                process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                self.watch()
            else:
                return self._ended(process)

    def run_all(
        self,
        jobs: Sequence[Job],
        at_once: int,
        ended: Callable[[Job, int], None],
        looked: Callable[[Sequence[Job]], None],
    ) -> None:
        """Runs jobs in their order, some at the same time, while the services are looked after.

        Args:
            jobs: what to run; one that fails does not keep the others from running.
            at_once: how many run at the same time.
            ended: told each job that has ended, and its exit code.
            looked: told the jobs under way, some times a second.

        Raises:
            InputError, ServiceFailed: see `wait_until_ready`.
        """
        waiting = deque(jobs)
        under_way: list[tuple[Job, subprocess.Popen[bytes]]] = []
        while waiting or under_way:
            while waiting and len(under_way) < at_once:
                job = waiting.popleft()
                job.log.parent.mkdir(parents=True, exist_ok=True)
                with job.log.open("wb") as log:
                    process = self._start(
                        job.command, job.environment, stdout=log, stderr=subprocess.STDOUT
                    )
                under_way.append((job, process))
            looked([job for job, _ in under_way])
            time.sleep(_LOOK_SECONDS)
            self.watch()
            for job, process in [entry for entry in under_way if entry[1].poll() is not None]:
                under_way.remove((job, process))
                ended(job, self._ended(process))

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], **streams: Any
    ) -> subprocess.Popen[bytes]:
        # A process group of its own: the terminal's Ctrl-C reaches the launcher alone, which then
        # ends all in order.
        process = subprocess.Popen(
            _tethered(command),
            cwd=self._folder,
            env={**os.environ, **environment},
            process_group=0,
            **streams,
        )
        self._foreground.append(process)
        return process

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """Clears up after a command of the foreground and returns its exit code."""
        _kill_group(process)
        self._foreground.remove(process)
        return process.wait()

    def watch(self) -> None:
        """Looks after every service once: notices what died, starts again what is due.

        Raises:
            InputError, ServiceFailed: see `wait_until_ready`.
        """
        for running in self._services:
            if running.restart_at is not None:
                if time.monotonic() >= running.restart_at:
                    self._restart(running)
            elif (code := running.process.poll()) is not None:
                self._note_death(running, code)
            elif not running.ready:
                self._probe(running)

    def _probe(self, running: _Running) -> None:
        now = time.monotonic()
        if now >= running.next_probe:
            running.ready = running.service.is_ready()
            running.was_ready |= running.ready
            running.next_probe = time.monotonic() + _PROBE_SECONDS
        if not running.ready and now - running.started > self._start_seconds:
            raise ServiceFailed(
                f"{running.service.name} is not ready after {self._start_seconds:.0f} s"
                + _log_end(running)
            )

    def _note_death(self, running: _Running, code: int) -> None:
        name = running.service.name
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if code == EXIT_BAD_INPUT and not running.was_ready:
            raise InputError(f"{name} cannot run with what it was given{_log_end(running)}")
        running.failures = 1 if running.ready else running.failures + 1
        if running.failures > self._max_restarts:
            raise ServiceFailed(
                f"{name} {how}, {running.failures} times in a row before it was ready"
                + _log_end(running)
            )
        backoff = min(_FIRST_BACKOFF * 2 ** (running.failures - 1), _LONGEST_BACKOFF)
        running.ready = False
        running.restart_at = time.monotonic() + backoff
        _kill_group(running.process)
        self._tell(f"{name} {how}; it is started again (log: {running.service.log})")

    def _restart(self, running: _Running) -> None:
        running.process, running.started, running.log_offset = _spawn(running.service, self._folder)
        running.restart_at = None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()  # not SIGINT: Python answers that with a traceback while it starts
            try:
                process.wait(self._grace_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        _kill_group(process)
        process.wait()


def _spawn(service: Service, folder: Path | None) -> tuple[subprocess.Popen[bytes], float, int]:
    """The process, the time and the length of the log before it."""
    with service.log.open("ab") as log:
        offset = log.tell()
        process = subprocess.Popen(
            _tethered(service.command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **service.environment},
            process_group=0,
        )
    return process, time.monotonic(), offset


def _tethered(command: Sequence[str]) -> list[str]:
    # -I -S: start in the time that an interpreter without any package takes.
    return [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills what a process left behind in its group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _log_end(running: _Running) -> str:
    with running.service.log.open("rb") as log:
        log.seek(running.log_offset)
        lines = log.read().decode("utf-8", errors="replace").splitlines()
    shown = "\n".join(f"  {line}" for line in lines[-_SHOWN_LOG_LINES:] if line.strip())
    return f"; the end of {running.service.log}:\n{shown or '  (nothing)'}"


def _exit_by_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
