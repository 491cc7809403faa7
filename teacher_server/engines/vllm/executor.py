"""vLLM's executor for workers in processes of their own, waiting for them without a core's work.

While a step runs, the process that schedules asks a flag in shared memory again and again, for a
second after each reply (`sched_yield`). Beside GPUs that costs nothing. On a CPU it takes turns on
the cores that compute the step: on two cores, steps took 1.3 times as long. Here it sleeps until
the worker's notice comes, as vLLM itself does when that second is over.
"""

from functools import partial
from typing import Any

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

LONGEST_SLEEP_MS = 1
"""When the flag is looked at without a notice. Where steps are short, notices are lost: ZeroMQ
drops those behind one that was not taken. vLLM itself looks again after 5 s."""


class SleepingExecutor(MultiprocExecutor):  # type: ignore[misc]
    """For CPUs."""

    def _post_init_executor(self) -> None:
        super()._post_init_executor()
        for replies in self.response_mqs:
            condition = replies._spin_condition
            if condition is not None:  # of a worker on this machine
                condition.busy_loop_s = 0.0
                condition.wait = partial(_sleep, condition.wait)


def _sleep(wait: Any, timeout_ms: int | None = None) -> None:
    wait(LONGEST_SLEEP_MS if timeout_ms is None else min(timeout_ms, LONGEST_SLEEP_MS))
