import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from student_trainer.verifiers.worker import Worker, WorkerKilled

MODULE = "tests.student_trainer.verifiers.echo_worker"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(MODULE)
    yield worker
    worker.close()


def test_one_process_serves_all_requests(worker: Worker) -> None:
    pid = worker.ask(60, action="pid")
    assert pid != os.getpid()
    assert worker.ask(60, action="pid") == pid


def test_what_the_work_prints_and_reads_does_not_disturb_replies(worker: Worker) -> None:
    assert worker.ask(60, action="print") == ""
    assert isinstance(worker.ask(60, action="pid"), int)


def test_string_hashes_are_the_same_in_every_worker(worker: Worker) -> None:
    first = worker.ask(60, action="hash")
    worker.close()
    assert worker.ask(60, action="hash") == first


def test_refused_request(worker: Worker) -> None:
    pid = worker.ask(60, action="pid")
    with pytest.raises(ValueError, match="no such thing"):
        worker.ask(60, action="refuse")
    assert worker.ask(60, action="pid") == pid


def test_endless_request_is_ended_and_the_next_one_is_served(worker: Worker) -> None:
    pid = worker.ask(60, action="pid")
    with pytest.raises(WorkerKilled, match="SIGPROF"):
        worker.ask(0.2, action="spin")
    assert worker.ask(60, action="pid") != pid


def test_faults_are_not_taken_for_limits(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        worker.ask(60, action="unknown")
    assert "a fault of the worker: unknown" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is set on Linux only")
def test_memory_is_limited(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        worker.ask(60, action="exhaust")
    assert "MemoryError" in capfd.readouterr().err


def test_module_that_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        Worker("tests.student_trainer.verifiers.no_such_module").ask(60, action="pid")


def test_worker_ends_with_its_parent() -> None:
    script = (
        "import os; from student_trainer.verifiers.worker import Worker; "
        f"worker = Worker({MODULE!r}); print(worker.ask(60, action='pid'), flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    # The worker has inherited standard error: this returns when both processes have closed it.
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert parent.returncode == -signal.SIGKILL
    assert int(parent.stdout) > 0
