"""What vLLM's workers do for the teacher (its `worker_extension_cls`): scores of response rows.

vLLM's first model runner computes log probs for whole prompts and hands them over as Python lists.
Here its hidden states are read where it would do that, and only the response's rows go through the
head; the scores travel in the field that vLLM's second runner uses for token-id scores, an array.
This is private to vLLM: `start_scoring_rows` says whether this release's runner has what it takes,
and the server compares the numbers with those of the public interface before it says that it is
ready.
"""

import resource
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterhint import process_ends
from counterhint.heap import keep_heap
from teacher_server.engines.vllm.rows import (
    ROWS_WANTED,
    Chunk,
    RowsUnderWay,
    RowsWanted,
    begin,
    score_chunks,
)
from teacher_server.engines.vllm.worker_weights import WeightsWorker

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class TeacherWorker(WeightsWorker):
    """Methods that vLLM adds to its workers."""

    model_runner: "GPUModelRunner"

    def start_scoring_rows(self) -> bool:
        """Has the runner score rows from now on; False when it cannot."""
        runner = self.model_runner
        needed = ("_get_prompt_logprobs_dict", "sample_tokens", "query_start_loc", "requests")
        if not all(hasattr(runner, name) for name in needed):
            return False
        self.row_scoring = RowScoring(runner)
        if self.model_runner.device.type == "cpu":
            keep_heap()
        return True

    def take_step_seconds(self) -> float:
        """Seconds that the runner spent in its steps since this was last asked."""
        seconds, self.row_scoring.step_seconds = self.row_scoring.step_seconds, 0.0
        return seconds

    def end_with(self, host: str, pid: int) -> None:
        """Ends this process when the server's has ended, and vLLM's engine with it.

        A server that is killed cannot tell them to, and they would hold their memory for ever.

        Args:
            host: the server's machine; workers on other machines have vLLM's own means.
            pid: the server's process.
        """
        process_ends.end_with(host, pid)

    def peak_bytes(self) -> int:
        """Most memory that this worker ever held: on a GPU what torch held there."""
        device = self.model_runner.device
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


class RowScoring:
    """Hooked into a model runner, scores the rows of requests that want it.

    Args:
        runner: vLLM's first model runner.
    """

    def __init__(self, runner: Any) -> None:
        self.step_seconds = 0.0
        self._runner = runner
        self._under_way: dict[str, RowsUnderWay] = {}
        self._finished: dict[str, RowsUnderWay] = {}
        self._execute_seconds = 0.0
        self._scheduled: dict[str, int] = {}
        self._prompt_log_probs = runner._get_prompt_logprobs_dict
        self._execute_model = runner.execute_model
        self._sample_tokens = runner.sample_tokens
        runner._get_prompt_logprobs_dict = self._step
        runner.execute_model = self._timed_execute_model
        runner.sample_tokens = self._sample_and_hand_over

    def _timed_execute_model(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._execute_model(*args, **kwargs)
        finally:
            self._execute_seconds = time.perf_counter() - start
            self.step_seconds += self._execute_seconds

    def _sample_and_hand_over(self, *args: Any, **kwargs: Any) -> Any:
        """Samples as the runner does; the scores that became complete go with its output."""
        start = time.perf_counter()
        output = self._sample_tokens(*args, **kwargs)
        seconds = time.perf_counter() - start
        self.step_seconds += seconds
        self._share(seconds + self._execute_seconds)
        if self._finished:
            # Under async scheduling the output proper stands inside a pending one.
            inner = getattr(output, "_model_runner_output", output)
            inner.prompt_token_id_logprobs_dict = {
                name: request.reply() for name, request in self._finished.items()
            }
            self._finished = {}
        return output

    def _share(self, seconds: float) -> None:
        """Divides a step's seconds among its requests, by their tokens in it."""
        tokens = sum(self._scheduled.values())
        for name, scheduled in self._scheduled.items():
            request = self._finished.get(name) or self._under_way.get(name)
            if request is not None:
                request.seconds += seconds * scheduled / tokens
        self._scheduled = {}

    def _step(self, hidden_states: Tensor, num_scheduled_tokens: dict[str, int]) -> Any:
        """Scores the response rows that this step has hidden states for.

        Args:
            hidden_states: `[n, H]` of the step's tokens, all requests.
            num_scheduled_tokens: how many of them are each request's.
        """
        runner = self._runner
        self._scheduled = num_scheduled_tokens
        for gone in self._under_way.keys() - runner.requests.keys():
            del self._under_way[gone]
        chunks: list[Chunk] = []
        complete: list[str] = []
        for name, scheduled in num_scheduled_tokens.items():
            state = runner.requests[name]
            params = state.sampling_params
            extra = None if params is None else params.extra_args
            if not extra or ROWS_WANTED not in extra:
                continue
            prompt = state.prompt_token_ids
            first = state.num_computed_tokens
            if first >= len(prompt):
                continue
            request = self._under_way.get(name)
            if request is None:
                request = begin(RowsWanted(*extra[ROWS_WANTED]), prompt, hidden_states.device)
                self._under_way[name] = request
            start = request.wanted.start
            low = max(start, first)
            high = min(first + scheduled, len(prompt) - 1)
            if low - start > request.next_row:
                request.complete = False
            if low < high:
                offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]])
                offset -= first
                chunks.append(
                    Chunk(
                        request,
                        low - start,
                        high - start,
                        hidden_states[offset + low : offset + high],
                    )
                )
                request.next_row = high - start
            if first + scheduled >= len(prompt):
                complete.append(name)
        score_chunks(chunks, runner.model.compute_logits)
        for name in complete:
            request = self._under_way.pop(name)
            if request.complete:
                self._finished[name] = request
        return self._prompt_log_probs(hidden_states, num_scheduled_tokens)
