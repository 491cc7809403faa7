"""vLLM's executor for workers in processes of their own, waiting for them without a core's work.

While a step runs, the process that schedules asks a flag in shared memory again and again, for a
second after each reply (`sched_yield`). Beside GPUs that costs nothing. On a CPU it takes turns on
the cores that compute the step: on two cores, steps took up to 1.4 times as long. Here it sleeps
until the worker's notice comes, as vLLM itself does when that second is over.
"""

from vllm.v1.executor.multiproc_executor import MultiprocExecutor


class SleepingExecutor(MultiprocExecutor):  # type: ignore[misc]
    """For CPUs."""

    def _post_init_executor(self) -> None:
        super()._post_init_executor()
        for replies in self.response_mqs:
            if replies._spin_condition is not None:  # of a worker on this machine
                replies._spin_condition.busy_loop_s = 0.0
