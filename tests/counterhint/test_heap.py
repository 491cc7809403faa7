"""Where large allocations lie, in a process of its own: the heap is the whole process's."""

import os
import subprocess
import sys

import pytest

SECOND_OF_A_SIZE = """
import ctypes
from counterhint.heap import bound_heap

class Mallinfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
bound_heap()
bytearray(8 << 20)  # freed at once: by default, glibc keeps the next ones in its heap
before = mallinfo().hblkhd
held = bytearray(8 << 20)
print("mapped" if mallinfo().hblkhd - before >= len(held) else "in the heap")
"""


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({}, "mapped"),
        ({"MALLOC_ARENA_MAX": "4"}, "in the heap"),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, "in the heap"),
    ],
)
def test_large_buffers_are_mapped_on_their_own_unless_the_environment_says_how(
    environment: dict[str, str], where: str
) -> None:
    inherited = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    run = subprocess.run(
        [sys.executable, "-c", SECOND_OF_A_SIZE],
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == where, run.stderr
