"""Processes that end with another one: a server that is killed cannot tell its workers to."""

import os
import select
import socket
import threading


def end_with(host: str, pid: int) -> None:
    """Ends this process when another one has ended (Linux).

    Args:
        host: the other's machine, as `socket.gethostname` gives it; nothing is watched elsewhere.
        pid: the other's process id.
    """
    if socket.gethostname() == host:
        watched = os.pidfd_open(pid)
        threading.Thread(target=_end_after, args=(watched,), daemon=True).start()


def _end_after(watched: int) -> None:
    ended = select.poll()
    ended.register(watched, select.POLLIN)
    ended.poll()
    os._exit(1)
