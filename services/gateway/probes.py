"""`/health`, `/ready` and `/metrics`."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.gateway.callers import Operator
from services.gateway.errors import ERROR_REPLIES
from services.gateway.state import GatewayState
from services.queue.errors import NOT_NOW

router = APIRouter(tags=["probes"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the process is worth keeping: it answers."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "`status` says what is missing."}})
async def ready(gateway: GatewayState) -> JSONResponse:
    """Whether requests can be answered: the queue takes jobs, and a teacher is known."""
    try:
        await gateway.queue.probe()
        missing = "" if await gateway.queue.teacher() else "no teacher is connected to the queue"
    except NOT_NOW as error:
        missing = error.message
    return JSONResponse({"status": missing or "ok"}, 503 if missing else 200)


@router.get(
    "/metrics",
    responses={status: ERROR_REPLIES[status] for status in (401, 403)},
    response_class=Response,
)
async def metrics(_: Operator) -> Response:
    """What this process counts, for Prometheus. With tokens, it takes an operator's."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
