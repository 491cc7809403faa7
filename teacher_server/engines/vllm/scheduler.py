"""vLLM's schedulers with prefix hits that end where scoring starts.

A hit that reaches into the response (a sibling that opens alike, the same job again) would leave
rows without hidden states. Capped, every row from the context's last token on is computed, and no
request has to be sent twice. The hook is private to vLLM: `options` looks whether this release has
it.
"""

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from teacher_server.engines.vllm.rows import SCORING_START


class _Capped:
    """Looks into the prefix cache no further than a request's first scored row."""

    kv_cache_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        coordinator = self.kv_cache_manager.coordinator
        find = coordinator.find_longest_cache_hit
        self._longest: int | None = None

        def find_no_further(block_hashes: Any, max_cache_hit_length: int) -> Any:
            if self._longest is not None:
                max_cache_hit_length = min(max_cache_hit_length, self._longest)
            return find(block_hashes, max_cache_hit_length)

        coordinator.find_longest_cache_hit = find_no_further

    def _get_local_prefix_cache_hit(self, request: Any) -> Any:
        given = request.sampling_params and request.sampling_params.extra_args
        self._longest = given.get(SCORING_START) if given else None
        try:
            return super()._get_local_prefix_cache_hit(request)  # type: ignore[misc]
        finally:
            self._longest = None


class CappedScheduler(_Capped, Scheduler):  # type: ignore[misc]
    """For engines that wait for each step."""


class CappedAsyncScheduler(_Capped, AsyncScheduler):  # type: ignore[misc]
    """For engines that schedule a step while the last one runs."""
