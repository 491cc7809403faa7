"""Runs campaigns: `python -m tests.campaign --seeds 200`, or one seed again with all it did."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.campaign.figures import Figures
from tests.campaign.runner import CampaignResult, Runner
from tests.campaign.schedule import make_schedule


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--seed", type=int, help="run this one alone and keep its folder")
    parser.add_argument("--verbose", action="store_true", help="print what happened")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side")
    parser.add_argument(
        "--real-every",
        type=int,
        default=20,
        help="every so many seeds, a tiny model in the real engine is the teacher; 0: never",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(words)


async def run_all(
    runner: Runner, seeds: Sequence[int], at_once: int, *, quiet: bool
) -> list[CampaignResult]:
    """Runs the seeds, some at a time; tells of each that fails."""
    slots = asyncio.Semaphore(at_once)
    console = Console(stderr=True)
    columns = (TextColumn("campaign"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet) as progress:
        bar = progress.add_task("campaign", total=len(seeds))

        async def one(seed: int) -> CampaignResult:
            async with slots:
                result = await runner.run(seed)
            progress.advance(bar)
            if result.violations:
                console.print(result.report(), markup=False, highlight=False, soft_wrap=True)
            return result

        return list(await asyncio.gather(*(one(seed) for seed in seeds)))


def main(words: Sequence[str]) -> int:
    """0 when every history keeps the promise, 1 when one does not."""
    options = parse_arguments(words)
    seeds = range(options.first, options.first + options.seeds)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    begun = time.monotonic()
    runner = Runner(folder, options.real_every)
    results = asyncio.run(run_all(runner, seeds, options.at_once, quiet=options.verbose))
    figures = Figures.of(results, time.monotonic() - begun)
    if options.verbose:
        for result in results:
            print(make_schedule(result.seed, real_teacher=runner.is_real(result.seed)))
            print(result.story())
    print(json.dumps(figures.as_dict(), indent=2) if options.json else figures)
    if options.seed is None and not figures.violations:
        shutil.rmtree(folder)
    else:
        print(f"logs and Redis's data: {folder}", file=sys.stderr)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
