"""A teacher process without a model that breaks on jobs whose id says how (`BrokenEngine`).

`python -m tests.teacher_server.broken_teacher ADDRESS [name=value …]`: names and values of
`ServerOptions`. It ends as `counterhint teacher serve` does.
"""

import json
import logging
import sys
from collections.abc import Sequence

import teacher_server.server
from teacher_server.server import ServerOptions, run_teacher
from tests.teacher_server.running import BrokenEngine, ZeroEngine


def main(arguments: Sequence[str]) -> int:
    address, *rest = arguments
    options = {name: json.loads(value) for name, _, value in (word.partition("=") for word in rest)}
    teacher_server.server.CLOSE_SECONDS = 0.5
    teacher_server.server.LAST_REPLIES = 60.0  # on a busy machine, too, they all arrive
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    return run_teacher(
        ServerOptions(address, content_cache_bytes=0, **options),  # the id breaks it, not content
        lambda: BrokenEngine(ZeroEngine()),
        lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
