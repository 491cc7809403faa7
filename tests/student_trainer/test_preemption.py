import signal
import threading

import pytest

from student_trainer.preemption import Preempted, stop_requests


def test_sigterm_is_a_request_however_often_it_comes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as stop:
        assert not stop.made
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
            assert stop.made
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    found = []

    def work() -> None:
        with stop_requests() as stop:
            found.append((stop.made, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_the_exit_code_is_that_of_a_process_that_sigterm_ended() -> None:
    with pytest.raises(SystemExit) as caught:
        raise Preempted(3)
    assert caught.value.code == 143
