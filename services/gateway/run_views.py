"""`/v1/training-runs`: figures and rollouts of runs, as their folders and the queue hold them.

Nothing is stored here: a view of a run is what the run itself has written so far.
"""

import asyncio
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field

from counterhint.errors import JobNotFound, Unavailable
from counterhint.tokens import Caller
from counterhint.views.rollouts import rollouts_reply
from services.gateway.callers import AnyCaller
from services.gateway.errors import ERROR_REPLIES
from services.gateway.run_folders import RunFolder, RunFolders
from services.gateway.score import to_json
from services.gateway.state import Gateway, GatewayState

router = APIRouter(
    tags=["runs"], responses={status: ERROR_REPLIES[status] for status in (401, 403, 404, 503)}
)

ROLLOUT_BYTES = 32 * 1024 * 1024
"""Most bytes of logged rollouts that one reply is made of."""
SHOWN = (
    *("rollout/reward", "rollout/length", "rollout/entropy", "eval/accuracy"),
    *("signal/selected_share", "hints/coverage", "scoring/wait_share"),
)
"""Figures of the list of runs."""


class TrainingRun(BaseModel):
    """A run in the list."""

    run: str
    """Its folder's name."""
    run_id: str | None
    """The name that its jobs bear."""
    queue_run: str | None
    """The run of `/v1/runs` that its jobs count for: where tokens are asked for, the token's. Null
    when the queue knows none, or cannot be reached."""
    method: str | None
    step: int | None
    """The last step that has figures."""
    steps: int | None
    """How many it is to take."""
    finished: bool
    idle_seconds: float | None
    """How long ago the last figures came."""
    figures: dict[str, float]
    """The latest of each that the run has, however long ago."""


class RunFigures(TrainingRun):
    """A run with its figures, and what the queue knows of it now."""

    rows: list[dict[str, Any]] = Field(description="Rows of `metrics.jsonl`; docs/metrics.md.")
    queue: dict[str, Any] | None = Field(description="As `/v1/runs/{run}`; null for unknown runs.")
    tokens_of_all_runs: int = Field(
        description="What all runs have been charged: of two replies, the share between them."
    )


@router.get("/v1/training-runs")
async def training_runs(gateway: GatewayState, caller: AnyCaller) -> list[TrainingRun]:
    """The runs whose folders are shown, the latest first."""
    if gateway.runs is None:
        return []
    try:
        known = [stats.run_id for stats in await gateway.queue.stats()]
    except Unavailable:
        known = []  # the folders can be shown without it
    return await asyncio.to_thread(_list, gateway, gateway.runs, caller, known)


@router.get("/v1/training-runs/{run}")
async def training_run(
    run: str,
    gateway: GatewayState,
    caller: AnyCaller,
    after_step: Annotated[int, Query(ge=-1, description="Only rows of later steps.")] = -1,
) -> RunFigures:
    """A run's figures, and what the queue knows of it now."""
    runs, folder = await _find(gateway, run, caller)
    facts, rows = await asyncio.to_thread(_figures, runs, folder, after_step)
    records = {record.stats.run_id: record for record in await gateway.queue.runs()}
    queue_run = _queue_run(gateway, folder, caller, records)
    return RunFigures(
        **facts,
        queue_run=queue_run,
        rows=rows,
        queue=None if queue_run is None else records[queue_run].facts(),
        tokens_of_all_runs=sum(record.stats.tokens for record in records.values()),
    )


@router.get("/v1/runs/{run}/rollouts")
async def rollouts(
    run: str,
    gateway: GatewayState,
    caller: AnyCaller,
    last_steps: Annotated[int, Query(ge=1, le=1000, description="Of steps with rollouts.")] = 5,
) -> Response:
    """The rollouts that a run has kept of its last steps, in the shape of a score reply.

    `left_out` is how many older ones are not there, because all would be too many bytes.
    """
    runs, folder = await _find(gateway, run, caller)

    def read() -> bytes:
        with runs.lock:
            folder.rollouts.refresh()
            rows, left_out = folder.rollouts.last_steps_within(last_steps, ROLLOUT_BYTES)
        return to_json({**rollouts_reply(rows), "left_out": left_out})

    return Response(await asyncio.to_thread(read), media_type="application/json")


async def _find(gateway: Gateway, run: str, caller: Caller) -> tuple[RunFolders, RunFolder]:
    """The run's folder.

    Raises:
        JobNotFound: there is none.
        PermissionDenied: it is another run's.
    """
    if gateway.runs is None:
        raise JobNotFound(
            "this gateway shows no runs: start it with --runs-dir and the folder that holds theirs",
            reason="RUN_NOT_FOUND",
            details={"run": run},
        )
    folder = await asyncio.to_thread(gateway.runs.find, run)
    caller.check_run(folder.run_id or "")
    return gateway.runs, folder


def _list(
    gateway: Gateway, runs: RunFolders, caller: Caller, known: Collection[str]
) -> list[TrainingRun]:
    shown = [folder for folder in runs.all() if caller.speaks_for(folder.run_id or "")]
    return [
        TrainingRun(
            **_figures(runs, folder, None)[0], queue_run=_queue_run(gateway, folder, caller, known)
        )
        for folder in shown
    ]


def _queue_run(
    gateway: Gateway, folder: RunFolder, caller: Caller, known: Collection[str]
) -> str | None:
    """Which of the queue's runs a folder's jobs count for, of those that the caller may see.

    Where callers have tokens, their jobs count for the token's run, whose name the folder's run is
    or begins with. Of several such names, the longest is the nearest guess.
    """
    run_id = folder.run_id or ""
    if run_id in known:
        return run_id
    if not gateway.authentication.asks:
        return None
    seen = (name for name in known if caller.speaks_for(name))
    above = [name for name in seen if Caller(name, None).speaks_for(run_id)]
    return max(above, key=len, default=None)


def _figures(
    runs: RunFolders, folder: RunFolder, after_step: int | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `TrainingRun` holds, and the rows after a step; none for None."""
    with runs.lock:
        folder.metrics.refresh()
        latest = folder.metrics.latest
        rows = [] if after_step is None else list(folder.metrics.after(after_step))
    facts = {
        "run": folder.name,
        "run_id": folder.run_id,
        "method": folder.setting("method.kind", str),
        "step": folder.metrics.last_step,
        "steps": folder.setting("steps", int),
        "finished": folder.finished,
        "idle_seconds": folder.idle_seconds,
        "figures": {name: latest[name] for name in SHOWN if name in latest},
    }
    return facts, rows
