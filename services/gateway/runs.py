"""`/v1/runs`: the runs as the queue knows them; the same facts as `counterhint runs`."""

from typing import Any

from fastapi import APIRouter

from services.gateway.callers import AnyCaller
from services.gateway.errors import ERROR_REPLIES
from services.gateway.state import GatewayState

router = APIRouter(
    tags=["runs"], responses={status: ERROR_REPLIES[status] for status in (401, 503)}
)


@router.get("/v1/runs")
async def runs(gateway: GatewayState, caller: AnyCaller) -> list[dict[str, Any]]:
    """Every run that the token may see: jobs by state, what they took, and the run's policy."""
    records = await gateway.queue.runs()
    return [record.facts() for record in records if caller.speaks_for(record.stats.run_id)]


@router.get("/v1/runs/{run}", responses={status: ERROR_REPLIES[status] for status in (403, 404)})
async def run(run: str, gateway: GatewayState, caller: AnyCaller) -> dict[str, Any]:
    """All that the queue knows about one run."""
    caller.check_run(run)
    return (await gateway.queue.run(run)).facts()
