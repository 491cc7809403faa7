"""Where large allocations lie, in a process of its own: the heap is the whole process's."""

import os
import subprocess
import sys

import pytest

SECOND_OF_A_SIZE = """
import ctypes, sys
from counterhint import heap

class Mallinfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
getattr(heap, sys.argv[1])()
bytearray(int(sys.argv[2]) << 20)  # freed at once: by default, glibc keeps the next ones
before = mallinfo().hblkhd
held = bytearray(int(sys.argv[2]) << 20)
print("mapped" if mallinfo().hblkhd - before >= len(held) else "in the heap")
"""


@pytest.mark.parametrize(
    ("function", "megabytes", "environment", "where"),
    [
        ("bound_heap", 8, {}, "mapped"),
        ("bound_heap", 8, {"MALLOC_ARENA_MAX": "4"}, "in the heap"),
        ("bound_heap", 8, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, "in the heap"),
        ("keep_heap", 64, {}, "in the heap"),
        ("keep_heap", 64, {"MALLOC_ARENA_MAX": "4"}, "mapped"),
    ],
)
def test_where_large_buffers_lie_unless_the_environment_says_how(
    function: str, megabytes: int, environment: dict[str, str], where: str
) -> None:
    inherited = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    run = subprocess.run(
        [sys.executable, "-c", SECOND_OF_A_SIZE, function, str(megabytes)],
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == where, run.stderr
