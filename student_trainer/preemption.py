"""A request to stop (SIGTERM, as schedulers send it) ends a run after the step under way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class StopRequest:
    """Whether the process has been asked to stop."""

    made: bool = False
    """True from the first SIGTERM on. More of them change nothing: where a scheduler sends it to
    every process, `torchrun` sends its own as well."""


class Preempted(SystemExit):
    """The run has been stopped by SIGTERM; its checkpoint is written. Exit code 143.

    Args:
        steps_done: where it stands.
    """

    def __init__(self, steps_done: int) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.steps_done = steps_done


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within it, SIGTERM is a request. Elsewhere than in the main thread nothing changes."""
    request = StopRequest()

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.made = True

    try:
        before = signal.signal(signal.SIGTERM, on_signal)
    except ValueError:  # not the main thread
        yield request
        return
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
