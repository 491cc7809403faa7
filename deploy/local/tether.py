"""Runs a command that cannot outlive the process that started it: PARENT_PID COMMAND [ARGUMENT …].

The kernel is asked to kill this process when its parent ends for whatever reason (Linux:
`prctl(PR_SET_PDEATHSIG)`, see prctl(2)); the request survives `exec`, by which the command then
takes this process over. A small program of its own, because `subprocess`'s `preexec_fn` is not safe
beside gRPC's threads. Elsewhere than on Linux the command simply runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, command: list[str]) -> None:
    """Ties this process to `parent` and turns it into the command."""
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it ended before the request was made
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
