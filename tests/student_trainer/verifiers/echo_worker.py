"""A worker to test `Worker` with."""

import os
import sys

from student_trainer.verifiers import worker


def handle(action: str) -> object:
    match action:
        case "pid":
            return os.getpid()
        case "hash":
            return hash("some text")
        case "print":
            print("not a reply")
            return sys.stdin.read()
        case "refuse":
            raise ValueError("no such thing")
        case "spin":
            9**9**9**9
        case "exhaust":
            return len(bytearray(5 * 2**30))  # never touched, so it would cost no real memory
    raise RuntimeError(f"a fault of the worker: {action}")


if __name__ == "__main__":
    # On a busy machine processor time takes long by the clock, whose limit is not to come first.
    worker._WALL_FACTOR = 1000
    worker.serve(handle)
