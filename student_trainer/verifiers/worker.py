"""A child process that answers requests, each under limits of time and memory that always hold.

Grading runs symbolic algebra, and in some reasoning-gym tasks Python's `eval`, on text that a model
wrote. `9**9**9**9` keeps either of them busy for longer than anyone waits, and the time-out that
math-verify carries works in the main thread only. So such work is done in a process of its own: it
sets the operating system's timers before each request, is ended by them, and is started again for
the next request. A worker must therefore keep no state that a request depends on.

Requests and replies are one JSON object a line, over pipes. Works on POSIX systems.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

from counterhint.errors import InputError

_MEMORY_BYTES = 4 * 2**30
_WALL_FACTOR = 10  # a request that sleeps, or a machine that is overloaded


class WorkerKilled(Exception):
    """A request went over its limit of time or memory, which ended the worker."""


class Worker:
    """The parent's side: starts `python -m module` at the first request and when it was killed.

    Safe to use from several threads, one request at a time. The process ends with this object, or
    with the parent.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[str] | None = None
        self._stop: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def ask(self, seconds: float, **request: object) -> object:
        """Send a request and wait for the reply.

        Args:
            seconds: Processor time that the request may take; 10 times as much by the clock.
            request: Keyword arguments of the worker's handler, as JSON can carry them.

        Returns:
            What the handler returned, as JSON gives it back.

        Raises:
            ValueError: The handler refused the request.
            WorkerKilled: The request went over its limits.
            RuntimeError: The worker could not start or failed; its traceback is on standard error.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"seconds": seconds, **request}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                self._raise_ended(process)
        reply: dict[str, object] = json.loads(line)
        if "refused" in reply:
            raise InputError(reply["refused"])
        return reply["result"]

    def close(self) -> None:
        """End the process, if there is one. The next request starts another."""
        with self._lock:
            self._stop()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            # Some generators iterate over sets of strings: a fixed hash seed makes them repeatable.
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )
        self._stop = weakref.finalize(self, _end, process)
        assert process.stdout is not None
        if not process.stdout.readline():
            self._raise_ended(process)
        self._process = process
        return process

    def _raise_ended(self, process: subprocess.Popen[str]) -> None:
        code = process.wait()
        self._stop()
        self._process = None
        if code < 0:
            raise WorkerKilled(f"{self._module} was ended by {signal.Signals(-code).name}")
        raise RuntimeError(f"python -m {self._module} ended with exit code {code}")


def serve(handle: Callable[..., object]) -> None:
    """The worker's side: answer requests until the parent closes the pipe.

    Args:
        handle: Called with each request's keyword arguments; returns what JSON can carry, or raises
            ValueError to refuse the request.
    """
    # The work may print or read: it gets the null device, the pipes are kept apart.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    logging.disable()
    # Ctrl-C is the parent's to handle; this process ends when the pipe does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))

    replies.write("ready\n")
    for line in requests:
        request = json.loads(line)
        seconds = request.pop("seconds")
        # Nothing handles these signals, so the kernel ends the process even inside C code.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * _WALL_FACTOR)
        try:
            reply = {"result": handle(**request)}
        except ValueError as error:
            reply = {"refused": str(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply) + "\n")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
