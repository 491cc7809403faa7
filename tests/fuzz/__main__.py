"""`python -m tests.fuzz`: a long campaign, with a progress bar; its figures as JSON."""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.fuzz.campaign import Campaign, Figures
from tests.fuzz.system import open_targets, running_system


async def fuzz(
    folder: Path,
    seed: int,
    numbers: Sequence[int],
    servers: Collection[str] = ("grpc", "http"),
    progress: Callable[[int], None] = lambda _: None,
) -> Figures:
    """Runs a campaign against processes of its own, which live in a folder with a short path.

    Args:
        folder: for the processes' files.
        seed: of every input.
        numbers: of the inputs.
        servers: which kinds of server get them.
        progress: is told how many inputs have come to an end.
    """
    with running_system(folder) as system:
        async with AsyncExitStack() as stack:
            targets = await open_targets(system, servers, stack)
            return await Campaign(system, targets, seed).run(numbers, progress)


def main() -> int:
    """Runs a campaign; exit code 1 when it found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of every input")
    parser.add_argument("--servers", nargs="+", choices=("grpc", "http"), default=["grpc", "http"])
    parser.add_argument("--only", type=int, help="send this input alone, as the campaign does")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    numbers = range(arguments.inputs) if arguments.only is None else [arguments.only]
    with (
        tempfile.TemporaryDirectory(prefix="fuzz") as folder,
        Progress(console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task(f"seed {arguments.seed}", total=len(numbers))
        figures = asyncio.run(
            fuzz(
                *(Path(folder), arguments.seed, numbers, arguments.servers),
                lambda done: bar.advance(task, done),
            )
        )
    text = json.dumps(vars(figures), indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 1 if figures.findings else 0


if __name__ == "__main__":
    sys.exit(main())
