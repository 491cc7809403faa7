"""With this folder on PYTHONPATH, a process's wall clock is off by `SHIFTED_CLOCK_SECONDS`.

gRPC's Python part makes deadlines of the wall clock for its core, which reads the machine's own:
on a machine whose clock is wrong both would be, so it keeps the machine's here.
"""

import os
import sys
import time

_shift = float(os.environ["SHIFTED_CLOCK_SECONDS"])
_time, _time_ns = time.time, time.time_ns


def _shifted() -> float:
    caller: str = sys._getframe(1).f_globals.get("__name__", "")
    return _time() if caller.startswith("grpc.") else _time() + _shift


time.time = _shifted
time.time_ns = lambda: _time_ns() + round(_shift * 1e9)
