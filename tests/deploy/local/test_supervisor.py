"""The supervisor with real child processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from counterhint.errors import InputError
from deploy.local.supervisor import Job, Service, ServiceFailed, Supervisor
from tests.processes import running_in, wait_until

# Adds its process id to the file `starts`.
STEADY = "import time; print(os.getpid(), file=open('starts', 'a')); time.sleep(3600)"


def starts(folder: Path) -> list[int]:
    """Process ids of the starts so far."""
    file = folder / "starts"
    return [int(word) for word in file.read_text().split()] if file.exists() else []


def python_service(
    folder: Path, code: str, is_ready: Callable[[], object] | None = None
) -> Service:
    """A service that runs Python code in `folder`; ready as soon as it has noted its start."""
    return Service(
        name="worker",
        command=(sys.executable, "-c", f"import os; os.chdir({str(folder)!r})\n{code}"),
        is_ready=lambda: bool(starts(folder) if is_ready is None else is_ready()),
        log=folder / "worker.log",
    )


def run_until_ready(service: Service, tell: Callable[[str], None], **settings: float) -> None:
    with Supervisor(tell, **settings) as supervisor:  # type: ignore[arg-type]
        supervisor.start(service)
        supervisor.wait_until_ready()


def ignore(line: str) -> None:
    pass


def is_gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


def test_children_run_in_the_folder_they_are_given(tmp_path: Path) -> None:
    write_folder = "from pathlib import Path; Path({!r}).write_text(str(Path.cwd()))"
    service = Service(
        name="worker",
        command=(sys.executable, "-c", f"{write_folder.format('service')}; import os; {STEADY}"),
        is_ready=lambda: (tmp_path / "service").exists(),
        log=tmp_path / "worker.log",
    )
    with Supervisor(ignore, folder=tmp_path) as supervisor:
        supervisor.start(service)
        supervisor.wait_until_ready()
        assert supervisor.run([sys.executable, "-c", write_folder.format("command")]) == 0
    assert Path((tmp_path / "command").read_text()).samefile(tmp_path)


def test_a_killed_service_is_started_again_while_a_command_runs(tmp_path: Path) -> None:
    told: list[str] = []
    with Supervisor(told.append) as supervisor:
        supervisor.start(python_service(tmp_path, STEADY))
        supervisor.wait_until_ready()
        kill_and_wait_for_next = (
            f"import os, time; os.kill({starts(tmp_path)[0]}, 9)\n"
            f"while len(open({str(tmp_path / 'starts')!r}).read().split()) < 2: time.sleep(0.02)"
        )
        assert supervisor.run([sys.executable, "-c", kill_and_wait_for_next]) == 0
        assert not is_gone(starts(tmp_path)[1])
    assert all(is_gone(process_id) for process_id in starts(tmp_path))
    assert len(told) == 1
    assert "worker was ended by signal 9" in told[0]


def test_a_service_that_gets_ready_in_between_may_die_any_number_of_times(tmp_path: Path) -> None:
    told: list[str] = []
    service = python_service(tmp_path, STEADY, lambda: len(starts(tmp_path)) > len(told))
    with Supervisor(told.append, max_restarts=1) as supervisor:
        supervisor.start(service)
        for _ in range(3):
            supervisor.wait_until_ready()
            os.kill(starts(tmp_path)[-1], signal.SIGKILL)
            os.waitid(os.P_PID, starts(tmp_path)[-1], os.WEXITED | os.WNOWAIT)
            supervisor.watch()
    assert len(told) == 3


def test_it_gives_up_on_a_service_that_never_gets_ready(tmp_path: Path) -> None:
    told: list[str] = []
    code = "print(1, file=open('starts', 'a')); print('the reason why'); raise SystemExit(1)"
    service = python_service(tmp_path, code, lambda: False)
    with pytest.raises(ServiceFailed, match="exit code 1, 3 times in a row") as failure:
        run_until_ready(service, told.append, max_restarts=2)
    assert "the reason why" in str(failure.value)
    assert len(starts(tmp_path)) == 3
    assert len(told) == 2


def test_a_service_that_refuses_its_input_is_not_tried_again(tmp_path: Path) -> None:
    code = (
        "import sys; print(1, file=open('starts', 'a'))\n"
        "print('--model nowhere: no such folder', file=sys.stderr); raise SystemExit(2)"
    )
    told: list[str] = []
    with pytest.raises(InputError, match="worker cannot run with what it was given") as failure:
        run_until_ready(python_service(tmp_path, code, lambda: False), told.append)
    assert "--model nowhere: no such folder" in str(failure.value)
    assert len(starts(tmp_path)) == 1
    assert told == []


def test_what_could_once_be_used_is_tried_again_even_after_exit_code_2(tmp_path: Path) -> None:
    code = (
        "print(1, file=open('starts', 'a')); count = len(open('starts').read().split())\n"
        "import time; time.sleep(3600 if count != 2 else 0); raise SystemExit(2)"
    )
    told: list[str] = []
    service = python_service(tmp_path, code, lambda: len(starts(tmp_path)) in (1, 3))
    with Supervisor(told.append) as supervisor:
        supervisor.start(service)
        supervisor.wait_until_ready()
        supervisor._services[0].process.kill()
        wait_until(lambda: (supervisor.watch(), len(told) == 2)[1])
        supervisor.wait_until_ready()
    assert "exit code 2" in told[1]


def test_a_failure_shows_the_log_of_the_last_start_only(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("from an earlier life\n")
    service = python_service(tmp_path, "print('now'); raise SystemExit(2)")
    with pytest.raises(InputError) as failure:
        run_until_ready(service, ignore)
    assert "now" in str(failure.value)
    assert "earlier" not in str(failure.value)


def test_a_service_that_does_not_get_ready_in_time_is_an_error(tmp_path: Path) -> None:
    service = python_service(tmp_path, STEADY, lambda: False)
    with pytest.raises(ServiceFailed, match="worker is not ready after"):
        run_until_ready(service, ignore, start_seconds=0.3)
    assert all(is_gone(process_id) for process_id in starts(tmp_path))


def test_what_ignores_the_request_to_end_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "print(child.pid, file=open('child', 'w'))\n" + STEADY
    )
    with Supervisor(ignore, grace_seconds=0.3) as supervisor:
        supervisor.start(python_service(tmp_path, code))
        supervisor.wait_until_ready()
    assert is_gone(starts(tmp_path)[0])
    wait_until(lambda: _has_ended(int((tmp_path / "child").read_text())))


def _has_ended(process_id: int) -> bool:
    """True also for one that nobody has waited for yet."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_the_foreground_command_leaves_no_children_behind(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"print(child.pid, file=open({str(tmp_path / 'child')!r}, 'w')); raise SystemExit(7)"
    )
    with Supervisor(ignore) as supervisor:
        assert supervisor.run([sys.executable, "-c", code]) == 7
        wait_until(lambda: _has_ended(int((tmp_path / "child").read_text())))


LAUNCHER = """
import sys
from pathlib import Path
from deploy.local.supervisor import Service, Supervisor

folder = Path(sys.argv[1])
sleep = "import time; time.sleep(3600)"
with Supervisor(print, grace_seconds=240) as supervisor:
    supervisor.start(
        Service("worker", (sys.executable, "-c", sleep), lambda: True, folder / "worker.log")
    )
    supervisor.wait_until_ready()
    supervisor.run([sys.executable, "-c", sys.argv[2]])
"""
# Says that it runs, and that it was asked to end.
FOREGROUND = """
import signal, sys, time
from pathlib import Path
folder = Path({folder!r})

def end(*_):
    (folder / "asked").touch()
    sys.exit()

signal.signal(signal.SIGTERM, end)
(folder / "runs").touch()
time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_nothing_outlives_the_launcher(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), FOREGROUND.format(folder=str(tmp_path))],
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    wait_until((tmp_path / "runs").exists)
    assert len(running_in(launcher)) == 3
    os.killpg(launcher.pid, number)
    launcher.communicate()
    if number == signal.SIGINT:  # KeyboardInterrupt ends the interpreter by the signal itself
        assert launcher.returncode in (exit_code, -number)
    else:
        assert launcher.returncode == exit_code
    wait_until(lambda: not running_in(launcher))
    assert (tmp_path / "asked").exists() == (number != signal.SIGKILL)


def python_job(folder: Path, name: str, code: str) -> Job:
    return Job(name, (sys.executable, "-c", code), folder / "logs" / f"{name}.log")


def test_jobs_run_some_at_a_time_and_a_failing_one_stops_no_other(tmp_path: Path) -> None:
    # Each waits for a file that the test writes when it has seen who is under way.
    wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('went')\n"
    codes = {"a": wait, "b": f"{wait}raise SystemExit(3)", "c": wait}
    ended: dict[str, int] = {}
    seen: list[list[str]] = []

    def look(under_way: Sequence[Job]) -> None:
        seen.append([job.name for job in under_way])
        (tmp_path / "go").touch()

    with Supervisor(ignore, folder=tmp_path) as supervisor:
        supervisor.run_all(
            [python_job(tmp_path, name, code) for name, code in codes.items()],
            2,
            lambda job, code: ended.update({job.name: code}),
            look,
        )
    assert ended == {"a": 0, "b": 3, "c": 0}
    assert seen[0] == ["a", "b"]
    assert all(0 < len(names) <= 2 for names in seen)
    assert all((tmp_path / "logs" / f"{name}.log").read_text() == "went\n" for name in codes)


def test_jobs_end_with_the_supervisor(tmp_path: Path) -> None:
    running: list[int] = []

    def look(under_way: Sequence[Job]) -> None:
        running.extend(starts(tmp_path))
        if running:
            raise KeyboardInterrupt

    job = python_job(tmp_path, "long", f"import os, time\n{STEADY}")
    with pytest.raises(KeyboardInterrupt), Supervisor(ignore, folder=tmp_path) as supervisor:
        supervisor.run_all([job], 1, lambda job, code: None, look)
    assert is_gone(running[0])
