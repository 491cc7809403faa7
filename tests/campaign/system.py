"""The processes of one campaign run: started, struck, and kept running.

Every process but Redis is forked from a server that has imported what they run
(`multiprocessing`'s forkserver), so that a start takes milliseconds; it runs the same command line
as a process of its own would.
"""

import asyncio
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from deploy.local.redis import LocalRedis
from tests.campaign.history import Blow
from tests.campaign.schedule import Fault, FaultKind, Schedule

LEASE_SECONDS = 1.5
LONGEST_END = 20.0
"""Seconds after which a process that was told to end counts as hanging, and is killed."""
RESTART_SECONDS = 0.1
"""After which a process that ended by itself is started again."""
WATCH_SECONDS = 0.02
EVERYSEC = 1.0
"""Seconds of acknowledged writes that Redis may forget in a crash, with `appendfsync everysec`."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["deploy.cli", "services.cli", "tests.campaign.teacher", "tests.campaign.trainer"]
)


def _tell_where_it_is(number: int, frame: FrameType | None) -> None:
    """Prints the stack of each task, and of the main thread: what a hanging process waits for."""
    traceback.print_stack(frame)
    with suppress(RuntimeError):  # the event loop has ended
        for task in asyncio.all_tasks():
            task.print_stack()


def _run(words: Sequence[str], log: str) -> None:
    """What a forked process does: the first word names the program."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGUSR1, _tell_where_it_is)
    match words:
        case ["scripted teacher", address]:
            from tests.campaign.teacher import serve

            asyncio.run(serve(address))
        case ["trainer", plan]:
            from tests.campaign.trainer import train

            train(plan)
        case _:
            from deploy.cli import main as counterhint

            sys.exit(counterhint(words))


class CampaignRedis(LocalRedis):
    """A Redis with the flushing that a schedule asks for."""

    def __init__(self, folder: Path, fsync: str) -> None:
        super().__init__(folder)
        self._fsync = fsync

    @property
    def command(self) -> list[str]:
        """The command that runs the server in the foreground."""
        command = super().command
        command[command.index("--appendfsync") + 1] = self._fsync
        return command

    @property
    def log_of_writes(self) -> Path:
        """The append-only file that grows."""
        (file,) = self.folder.rglob("*.aof")
        return file

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid


class System:
    """All processes of a run by name; `tend` starts again what has ended.

    Args:
        schedule: says which processes there are.
        folder: for sockets, logs and Redis's data.
        model: the real teacher's; None with scripted ones.
    """

    def __init__(self, schedule: Schedule, folder: Path, model: Path | None) -> None:
        self.folder = folder
        self.schedule = schedule
        self.redis = CampaignRedis(folder / "redis", schedule.fsync)
        self.intake = f"unix://{folder}/intake.sock"
        self.killed: list[str] = []
        """Lives of trainers that a kill ended, as `trainer-0.1`."""
        self.broken: list[str] = []
        self.blows: list[Blow] = []
        self._redis_at_work = asyncio.Lock()
        self._origin = 0.0
        self._commands = self._make_commands(model)
        self._running: dict[str, BaseProcess] = {}
        self._ended_by_us: dict[str, float] = {}
        """Processes that a fault ended, and after how many seconds they come back."""
        self._told_to_end: dict[str, float] = {}
        self._lives = {f"trainer-{number}": 0 for number in range(schedule.trainers)}

    def _make_commands(self, model: Path | None) -> dict[str, list[str]]:
        teachers = [f"unix://{self.folder}/t{n}.sock" for n in range(self.schedule.teachers)]
        shared = ["--redis", self.redis.url, "--lease-seconds", str(LEASE_SECONDS)]
        to_teachers = [word for teacher in teachers for word in ("--teachers", teacher)]
        bounds = ["--teacher-jobs", "3", "--max-part-tokens", "30", "--drain-seconds", "1"]
        commands = {"intake": ["services", "run", "intake", "--listen", self.intake, *shared]}
        for number, teacher in enumerate(teachers):
            commands[f"teacher-{number}"] = (
                ["scripted teacher", teacher]
                if model is None
                else ["teacher", "serve", "--model", str(model), "--listen", teacher]
            )
        for number in range(self.schedule.dispatchers):
            commands[f"dispatcher-{number}"] = [
                *("services", "run", "dispatcher", *shared, *to_teachers, *bounds)
            ]
        return commands

    @property
    def now(self) -> float:
        """Seconds since the run's beginning."""
        return time.monotonic() - self._origin

    @property
    def trainers_done(self) -> bool:
        """Whether every trainer has been told about all that it sent."""
        return all(
            name in self._running and self._running[name].exitcode == 0 for name in self._lives
        )

    def trainer_logs(self) -> list[Path]:
        """What the trainers were told, a file for each life of one."""
        return sorted(self.folder.glob("trainer-*.jsonl"))

    def start(self) -> None:
        """Starts Redis and the servers."""
        self.redis.start()
        for name in self._commands:
            self._start(name)

    def begin(self) -> None:
        """The run begins now: starts the trainers."""
        self._origin = time.monotonic()
        for name in self._lives:
            self._start(name)

    def end(self) -> None:
        """Kills everything."""
        for process in self._running.values():
            process.kill()
            process.join()
        self.redis.kill()

    def _start(self, name: str) -> None:
        words = self._commands.get(name) or ["trainer", self._plan(name)]
        log = str(self.folder / f"{name}.log")
        process = _processes.Process(target=_run, args=(words, log), daemon=True)
        process.start()
        self._running[name] = process

    def _plan(self, trainer: str) -> str:
        life = f"{trainer}.{self._lives[trainer]}"
        sends = [asdict(one) for one in self.schedule.submissions if one.trainer == trainer]
        plan = {
            "name": life,
            "submissions": sends,
            "intake": self.intake,
            "origin": self._origin,
            "log": str(self.folder / f"{life}.jsonl"),
        }
        return json.dumps(plan)

    async def tend(self) -> None:
        """Starts again, for ever, what has ended; a trainer only after a kill."""
        while True:
            for name, process in list(self._running.items()):
                code = process.exitcode
                if code is None and self.now > self._told_to_end.get(name, math.inf):
                    await self._end_hanging(name, process)
                if code is None or (name in self._lives and code == 0):
                    continue
                pause = self._ended_by_us.pop(name, None)
                if (pause is None or code > 0) and not self._may_end(name, code):
                    self.broken.append(f"{name} ended with exit code {code}")
                if name in self._lives:
                    if pause is None:
                        del self._running[name]
                        continue
                    self.killed.append(f"{name}.{self._lives[name]}")
                    self._lives[name] += 1
                await asyncio.sleep(RESTART_SECONDS if pause is None else pause)
                self._told_to_end.pop(name, None)
                self._start(name)
            await asyncio.sleep(WATCH_SECONDS)

    async def _end_hanging(self, name: str, process: BaseProcess) -> None:
        """Lets a process that does not end write to its log where it is, and kills it."""
        assert process.pid is not None
        del self._told_to_end[name]
        self.broken.append(f"{name} did not end within {LONGEST_END:g} s of SIGTERM: see its log")
        os.kill(process.pid, signal.SIGUSR1)
        await asyncio.sleep(1.0)
        process.kill()

    def _may_end(self, name: str, code: int) -> bool:
        """Whether it is a scripted teacher that a poisonous job ended."""
        return name.startswith("teacher") and not self.schedule.real_teacher and code == 1

    async def strike(self, fault: Fault) -> None:
        """Does what a fault says; returns when a paused process goes on, or Redis is back."""
        begun = self.now
        if fault.target == "redis":
            lost_from = await self._strike_redis(fault)
        else:
            lost_from = None
            process = self._running.get(fault.target)
            if process is None or process.exitcode is not None or process.pid is None:
                return  # it has just ended, or is done
            await self._strike_process(fault, process.pid)
        self.blows.append(Blow(fault.kind, fault.target, begun, self.now, lost_from))

    async def _strike_process(self, fault: Fault, pid: int) -> None:
        with suppress(ProcessLookupError):  # another fault was faster
            if fault.kind is FaultKind.PAUSE:
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                os.kill(pid, signal.SIGCONT)
                return
            self._ended_by_us[fault.target] = fault.seconds
            if fault.kind is FaultKind.STOP:
                self._told_to_end[fault.target] = self.now + LONGEST_END
            os.kill(pid, signal.SIGKILL if fault.kind is FaultKind.KILL else signal.SIGTERM)

    async def _strike_redis(self, fault: Fault) -> float | None:
        """Since when acknowledged writes may be lost."""
        async with self._redis_at_work:
            if fault.kind is FaultKind.PAUSE:
                os.kill(self.redis.pid, signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                os.kill(self.redis.pid, signal.SIGCONT)
                return None
            keeps_all = self.schedule.fsync == "always"
            size, since = self.redis.log_of_writes.stat().st_size, self.now
            if fault.kind is FaultKind.POWER_CUT:
                await asyncio.sleep(fault.seconds)
            self.redis.kill()
            since = min(since, self.now - EVERYSEC)
            if fault.kind is FaultKind.KILL:
                await asyncio.sleep(fault.seconds)
            elif not keeps_all:
                self._cut(size)
            await asyncio.to_thread(self.redis.start)
            return None if keeps_all else since

    def _cut(self, size: int) -> None:
        """Cuts the append-only file somewhere behind `size`, as the seed says."""
        file = self.redis.log_of_writes
        written = file.stat().st_size
        os.truncate(file, size + (written - size) * (self.schedule.seed % 7) // 7)
