"""`POST /v1/distill/score`: responses under correct and wrong hints, token by token."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse

from counterhint.errors import CounterhintError
from counterhint.jobs import Cost, ScoringJob, ScoringResult, TeacherInfo
from counterhint.messages import job_to_message, result_from_message
from counterhint.tokens import Caller
from services.gateway.callers import AnyCaller
from services.gateway.errors import ERROR_REPLIES, facts_of, internal_error
from services.gateway.json_body import JsonRoute
from services.gateway.score_models import ScoreRequest
from services.gateway.score_plan import (
    ScorePlan,
    check_fingerprint,
    make_plan,
    run_of,
    usable_tokenizer,
)
from services.gateway.score_reply import (
    ScoreReply,
    cost_reply,
    plan_facts,
    response_reply,
    score_reply,
)
from services.gateway.state import Gateway, GatewayState
from services.gateway.tokenizer import Tokenizer
from services.gateway.waiting import while_connected

log = logging.getLogger(__name__)

router = APIRouter(tags=["scoring"], route_class=JsonRoute)

NDJSON = "application/x-ndjson"
_JOBS_UNDER_WAY = 32
"""Jobs of one streamed request that are queued at a time: its client may read slowly."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose texts are token ids, ready to be queued."""

    request: ScoreRequest
    plan: ScorePlan
    teacher: TeacherInfo
    tokenizer: Tokenizer | None
    """The teacher's, where the gateway has it."""
    run: str

    def job(self, job_id: str) -> ScoringJob:
        """The job of all responses."""
        return self._job(job_id, range(len(self.plan.responses)))

    def job_of(self, index: int) -> ScoringJob:
        """The job of one response."""
        return self._job(new_id(), [index])

    def _job(self, job_id: str, which: Any) -> ScoringJob:
        fingerprint = self.teacher.tokenizer_fingerprint
        return self.plan.job(job_id, self.request, self.run, fingerprint, which)


async def prepare(gateway: Gateway, request: ScoreRequest, caller: Caller) -> Prepared:
    """Tokenizes a request.

    Raises:
        CounterhintError: it cannot be scored.
    """
    teacher = await gateway.submissions.teacher()
    fingerprint = teacher.tokenizer_fingerprint
    check_fingerprint(request, fingerprint)
    tokenizer = usable_tokenizer(request, fingerprint, gateway.tokenizer)
    plan = await asyncio.to_thread(make_plan, request, tokenizer, teacher.max_model_len)
    return Prepared(request, plan, teacher, tokenizer, run_of(request, caller.run))


@router.post(
    "/v1/distill/score",
    response_model=ScoreReply,
    responses={
        **ERROR_REPLIES,
        200: {
            "description": "The scores; as NDJSON (`Accept: application/x-ndjson`) a line `head`, "
            "a line `response` or `error` for each response as it is finished, a line `end`.",
            "content": {NDJSON: {}},
        },
    },
)
async def score(
    body: ScoreRequest,
    request: Request,
    gateway: GatewayState,
    caller: AnyCaller,
    accept: Annotated[
        str, Header(description=f"`{NDJSON}` for a line for each response, as they are scored.")
    ] = "*/*",
) -> Response:
    """Scores responses under a correct hint, wrong hints and none.

    The contexts come as `problem` with hints (the gateway makes prompts of them, by a hint template
    and the teacher's chat template), as chats in `messages`, or as token ids in `contexts`. The
    queue's bounds and the run's share count as for any other job.
    """
    prepared = await prepare(gateway, body, caller)
    if NDJSON in accept:
        lines = _stream(gateway, prepared, caller)
        return StreamingResponse(lines, media_type=NDJSON)
    job = prepared.job(new_id())
    result = await while_connected(request, _result(gateway, prepared, job, caller))
    content = await asyncio.to_thread(
        lambda: to_json(
            score_reply(job.id, prepared.plan, body.gate.build(), result, prepared.tokenizer)
        )
    )
    return Response(content, media_type="application/json")


def new_id() -> str:
    """An id that no other job has."""
    return uuid.uuid4().hex


def to_json(content: Any) -> bytes:
    """JSON as it is sent: UTF-8, and never NaN.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


async def _result(
    gateway: Gateway, prepared: Prepared, job: ScoringJob, caller: Caller
) -> ScoringResult:
    message = await gateway.submissions.score(
        job_to_message(job), caller, prepared.request.timeout_seconds
    )
    return result_from_message(message, job)


async def _stream(gateway: Gateway, prepared: Prepared, caller: Caller) -> AsyncIterator[bytes]:
    """The lines of a streamed reply, a job for each response; ends with the client."""
    plan, gate, teacher = prepared.plan, prepared.request.gate.build(), prepared.teacher
    head = {
        "model": teacher.model_id,
        "weights_revision": teacher.weights_revision,
        "tokenizer_fingerprint": teacher.tokenizer_fingerprint,
        "engine": f"{teacher.engine} {teacher.engine_version}",
        **plan_facts(plan, gate),
        "responses": len(plan.responses),
    }
    yield _line({"head": head})
    slots = asyncio.Semaphore(_JOBS_UNDER_WAY)
    finished: asyncio.Queue[tuple[bytes, Cost]] = asyncio.Queue()

    def failed(index: int, error: CounterhintError) -> None:
        finished.put_nowait((_line({"error": {**facts_of(error), "index": index}}), Cost(0, 0)))

    async def score_one(index: int) -> None:
        try:
            result = await _result(gateway, prepared, prepared.job_of(index), caller)
            reply = await asyncio.to_thread(
                response_reply, plan, index, 0, gate, result, prepared.tokenizer
            )
            line = _line({"response": reply})
        except CounterhintError as error:
            failed(index, error)
        except Exception:  # one response's fault is not the others'
            log.exception("response %d of a streamed request", index)
            failed(index, internal_error())
        else:
            finished.put_nowait((line, result.cost))

    async def score_all() -> None:
        async with asyncio.TaskGroup() as jobs:
            for index in range(len(plan.responses)):
                await slots.acquire()
                jobs.create_task(score_one(index))

    scoring = asyncio.create_task(score_all())
    try:
        costs = []
        for _ in plan.responses:
            line, cost = await finished.get()
            costs.append(cost)
            yield line
            slots.release()  # once the client has taken it
    finally:
        scoring.cancel()
    yield _line({"end": {"cost": cost_reply(_sum(costs))}})


def _sum(costs: list[Cost]) -> Cost:
    return Cost(
        **{field.name: sum(getattr(cost, field.name) for cost in costs) for field in fields(Cost)}
    )


def _line(content: Any) -> bytes:
    return to_json(content) + b"\n"
