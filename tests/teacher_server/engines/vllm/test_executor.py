"""On a CPU, the process that schedules leaves the cores to the workers."""

from threading import Thread

import pytest
import torch

from teacher_server.engines.vllm.options import VllmOptions, engine_config
from tests.tiny_models import write_tiny_llama

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(torch.cuda.is_available(), reason="for vLLM on a CPU"),
]


def test_it_sleeps_while_it_waits_for_a_worker():
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

    from teacher_server.engines.vllm.executor import LONGEST_SLEEP_MS, SleepingExecutor

    writer = MessageQueue(1, 1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), rank=0)
    ready = Thread(target=writer.wait_until_ready)
    ready.start()
    reader.wait_until_ready()
    ready.join()
    executor = object.__new__(SleepingExecutor)  # without its workers, which need an engine
    executor.response_mqs = [reader]
    executor._post_init_executor()

    writer.enqueue("a step's rows")
    assert reader.dequeue() == "a step's rows"
    sleeps = []
    poller = reader._spin_condition.poller

    class CountingPoller:
        def poll(self, timeout):
            sleeps.append(timeout)
            return poller.poll(timeout)

    reader._spin_condition.poller = CountingPoller()
    with pytest.raises(TimeoutError):
        reader.dequeue(timeout=0.05)
    assert sleeps  # a spinning one would have none within a second of the last message
    # So that a step whose notice is lost is not waited for longer.
    assert set(sleeps) == {LONGEST_SLEEP_MS}


def test_engines_on_a_cpu_have_it(tmp_path, monkeypatch):
    # Trainers whose vLLM samples in their own process set it to 0.
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    from vllm.v1.executor import Executor

    from teacher_server.engines.vllm.executor import SleepingExecutor

    write_tiny_llama(tmp_path, hidden_size=128)
    config, _ = engine_config(VllmOptions(tmp_path))
    assert Executor.get_class(config) is SleepingExecutor
    # Another one that was asked for stays.
    config, _ = engine_config(
        VllmOptions(tmp_path, engine_args={"distributed_executor_backend": "external_launcher"})
    )
    assert Executor.get_class(config).__name__ == "ExecutorWithExternalLauncher"
