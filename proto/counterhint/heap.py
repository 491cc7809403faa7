"""What glibc's heap does with freed memory: give it back, or keep it.

For processes that serve for weeks and compute nothing, `bound_heap`. By default glibc raises the
size from which an allocation is mapped on its own, up to 32 MiB, whenever such a one is freed
(`mallopt(3)`, dynamic mmap threshold). Later ones then lie in the heap among small objects that
stay, and what is freed between them cannot be given back: a server grows by every few large
messages, though it holds nothing of them. With a fixed size it does not.

For processes that compute on a CPU, `keep_heap`. Each layer's activations are buffers of tens of
megabytes, which the kernel would map and clear anew every time: with it, vLLM's steps took 0.8 of
the time, while `bound_heap` made the `transformers` engine take 1.6 times as long.
"""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
"""Of `malloc.h`."""
MAPPED_BYTES = 1 << 20
"""Allocations from this size on are mapped on their own, and unmapped when they are freed."""
KEPT_BYTES = 16 << 20
"""What may stay free at the heap's end; glibc takes 128 KiB when the size above is fixed, and would
ask the kernel for the same pages again and again."""
ARENAS = 2
"""Heaps that threads share; glibc makes 8 for each core, each with free memory of its own."""


def bound_heap() -> None:
    """Has the heap of this process give back what it does not use.

    Nothing happens where there is no glibc, or where the environment says how its heap works
    (`MALLOC_…`, `GLIBC_TUNABLES`). Child processes choose for themselves.
    """
    _set((_MMAP_THRESHOLD, MAPPED_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES), (_ARENA_MAX, ARENAS))


def keep_heap() -> None:
    """Has the heap of this process keep the most that it ever held; else like `bound_heap`."""
    _set((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))


def _set(*values: tuple[int, int]) -> None:
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in values:
            mallopt(parameter, value)
