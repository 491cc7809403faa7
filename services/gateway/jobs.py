"""`/v1/jobs`: jobs that are queued now and asked for later.

What was asked for is kept beside the job in the queue, so that any gateway on it can say what came
of it, by the same texts and parameters.
"""

import asyncio
import hashlib
import zlib
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Path
from fastapi.responses import Response
from pydantic import StringConstraints, TypeAdapter

from counterhint.errors import CounterhintError
from counterhint.jobs import Outputs, ScoringJob, ScoringResult, pairs_array
from counterhint.messages import job_to_message, result_from_message
from counterhint.tokens import Caller
from counterhint.v1 import scoring_pb2
from services.gateway.callers import AnyCaller
from services.gateway.errors import ERROR_REPLIES, facts_of
from services.gateway.job_models import JobBody, JobReply, RawJob
from services.gateway.json_body import JsonRoute
from services.gateway.score import new_id, prepare, to_json
from services.gateway.score_models import ScoreRequest
from services.gateway.score_plan import check_fingerprint, make_plan, run_of, usable_tokenizer
from services.gateway.score_reply import cost_reply, head_of, numbers, score_reply, top_tokens
from services.gateway.state import Gateway, GatewayState
from services.gateway.tokenizer import Tokenizer
from services.queue.records import JobRecord
from services.submission import response_of

router = APIRouter(
    tags=["jobs"],
    route_class=JsonRoute,
    responses={status: ERROR_REPLIES[status] for status in (401, 403, 404, 503)},
)

_BODY: TypeAdapter[ScoreRequest | RawJob] = TypeAdapter(JobBody)
_KINDS = {b"s": "score", b"r": "raw"}
"""Kinds of jobs by the first byte of their notes."""
_SUBMIT_ERRORS: dict[int | str, dict[str, Any]] = {
    status: ERROR_REPLIES[status] for status in (400, 409, 413, 415, 422, 429)
}

IdempotencyKey = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")] | None,
    Header(description="The same key with the same body is the same job; with another, 409."),
]
JobId = Annotated[str, Path(description="As `POST /v1/jobs` gave it; it may hold slashes.")]


@router.post("/v1/jobs", status_code=202, response_model=JobReply, responses=_SUBMIT_ERRORS)
async def submit(
    body: JobBody,
    gateway: GatewayState,
    caller: AnyCaller,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queues a job; `Location` says where its state and result can be asked for.

    A body with `pairs` is in token ids; any other is one of `/v1/distill/score`. The time-out is
    that of the job: it ends as expired when it is still queued then.
    """
    job = await _job_of(gateway, body, caller, _id_of(idempotency_key))
    note = await asyncio.to_thread(_note_of, body)
    job_id = await gateway.submissions.submit(
        job_to_message(job), caller, body.timeout_seconds, note
    )
    record = await gateway.queue.job(job_id)
    content = await _reply(gateway, record)
    return Response(
        content, 202, headers={"Location": f"/v1/jobs/{job_id}"}, media_type="application/json"
    )


@router.get("/v1/jobs/{job_id:path}", response_model=JobReply)
async def show(job_id: JobId, gateway: GatewayState, caller: AnyCaller) -> Response:
    """A job's state, and its result or error once it has one; they are kept for a while."""
    record = await _own_record(gateway, job_id, caller)
    return Response(await _reply(gateway, record), media_type="application/json")


@router.delete("/v1/jobs/{job_id:path}", response_model=JobReply)
async def cancel(job_id: JobId, gateway: GatewayState, caller: AnyCaller) -> Response:
    """Cancels a job; one that has ended stays as it is, as its state says."""
    record = await _own_record(gateway, job_id, caller)
    await gateway.queue.cancel(record.id)
    record = await gateway.queue.job(record.id)
    return Response(await _reply(gateway, record), media_type="application/json")


def _id_of(key: str | None) -> str:
    """The id of a new job, the same one for the same key."""
    return new_id() if key is None else f"key-{hashlib.sha256(key.encode()).hexdigest()[:40]}"


def _note_of(body: ScoreRequest | RawJob) -> bytes:
    """What is kept beside a job, to say by which texts and parameters it was asked for.

    Its first byte tells the kind, so that a poll need not unpack the rest.
    """
    mark = b"s" if isinstance(body, ScoreRequest) else b"r"
    return mark + zlib.compress(_BODY.dump_json(body, exclude_defaults=True))


async def _own_record(gateway: Gateway, job_id: str, caller: Caller) -> JobRecord:
    """A job that the caller may see.

    Raises:
        JobNotFound: no job has this id.
        PermissionDenied: it is another run's.
    """
    record = await gateway.queue.job(job_id)
    caller.check_run(record.run_id)
    return record


async def _job_of(
    gateway: Gateway, body: ScoreRequest | RawJob, caller: Caller, job_id: str
) -> ScoringJob:
    """The job that a body asks for."""
    if isinstance(body, ScoreRequest):
        return (await prepare(gateway, body, caller)).job(job_id)
    fingerprint = (await gateway.submissions.teacher()).tokenizer_fingerprint
    check_fingerprint(body, fingerprint)
    return await asyncio.to_thread(_raw_job, job_id, body, run_of(body, caller.run), fingerprint)


def _raw_job(job_id: str, body: RawJob, run: str, fingerprint: str) -> ScoringJob:
    given = None
    if body.token_ids is not None:
        given = np.array([row for rows in body.token_ids for row in rows], dtype=np.int32)
    return ScoringJob(
        id=job_id,
        run_id=run,
        contexts=tuple(np.array(ids, dtype=np.int32) for ids in body.contexts),
        responses=tuple(np.array(ids, dtype=np.int32) for ids in body.responses),
        pairs=pairs_array([(context, response) for context, response in body.pairs]),
        tokenizer_fingerprint=fingerprint,
        outputs=Outputs(
            sampled=body.outputs.sampled,
            top_k=body.outputs.top_k,
            given=given is not None,
            entropy=body.outputs.entropy,
        ),
        token_ids=given,
        priority=body.priority,
    )


async def _reply(gateway: Gateway, record: JobRecord) -> bytes:
    """The `JobReply` of a job, as JSON."""
    note, outcome = await gateway.queue.note(record.id), await gateway.queue.outcome(record.id)
    response, error = None, None
    if outcome is not None:
        record = replace(record, state=outcome.state)
        try:
            response = response_of(outcome)
        except CounterhintError as failure:
            error = facts_of(failure)
    return await asyncio.to_thread(
        lambda: to_json(_describe(record, note, response, gateway.tokenizer) | {"error": error})
    )


def _describe(
    record: JobRecord,
    note: bytes,
    response: scoring_pb2.ScoreResponse | None,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    result = None
    if note and response is not None:
        result = _result(_BODY.validate_json(zlib.decompress(note[1:])), response, tokenizer)
    return {
        "id": record.id,
        "run": record.run_id,
        "kind": _KINDS.get(note[:1]),
        "state": record.state,
        "priority": record.priority,
        "cost_tokens": record.cost,
        "attempts": record.attempt,
        "result": result,
    }


def _result(
    body: ScoreRequest | RawJob, response: scoring_pb2.ScoreResponse, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What a response says about the job of a body.

    Raises:
        TokenizerMismatch: the body holds text, and the gateway's tokenizer is another one now.
    """
    fingerprint = response.tokenizer_fingerprint
    if isinstance(body, RawJob):
        if tokenizer is not None and tokenizer.fingerprint != fingerprint:
            tokenizer = None
        job = _raw_job(response.id, body, "", fingerprint)
        return _raw_reply(body, result_from_message(response, job), tokenizer)
    tokenizer = usable_tokenizer(body, fingerprint, tokenizer)
    plan = make_plan(body, tokenizer, None)
    job = plan.job(response.id, body, "", fingerprint, range(len(plan.responses)))
    result = result_from_message(response, job)
    return score_reply(response.id, plan, body.gate.build(), result, tokenizer)


def _raw_reply(body: RawJob, result: ScoringResult, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """See `RawReply`."""
    reasons = {missing.pair: missing.reason for missing in result.scores.missing}
    pairs = []
    for index, (context, response) in enumerate(body.pairs):
        scores = result.pair(index)
        columns: dict[str, Any] = {}
        if scores.sampled is not None:
            columns["log_probs"] = numbers(scores.sampled)
        if scores.entropy is not None:
            columns["entropy"] = numbers(scores.entropy)
        if scores.top_k_ids is not None:
            columns["top_k"] = top_tokens(scores, tokenizer)
        if scores.given is not None:
            flat, n = numbers(scores.given.reshape(-1)), scores.given.shape[1]
            columns["given"] = [flat[start : start + n] for start in range(0, len(flat), n)]
        pairs.append(
            {"context": context, "response": response, **columns, "missing": reasons.get(index)}
        )
    return {
        "id": result.job_id,
        **head_of(result),
        "pairs": pairs,
        "cost": cost_reply(result.cost),
    }
