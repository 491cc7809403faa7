"""`/v1/teachers`: what computes scores; `/v1/models`: the same as OpenAI clients read it."""

from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from services.gateway.callers import AnyCaller
from services.gateway.errors import ERROR_REPLIES
from services.gateway.state import GatewayState

router = APIRouter(
    tags=["teachers"], responses={status: ERROR_REPLIES[status] for status in (401, 503)}
)


class Teacher(BaseModel):
    """What the connected teachers are, and the limits that jobs must keep."""

    model_id: str
    weights_revision: str
    tokenizer_fingerprint: str
    vocab_size: int
    max_model_len: int
    max_top_k: int
    engine: str
    engine_version: str
    max_job_tokens: int
    outputs: list[str]
    takes_text: bool
    """Whether the gateway has this teacher's tokenizer, so that requests may hold text."""


class Teachers(BaseModel):
    """The teachers behind the queue: copies of one model count as one."""

    teachers: list[Teacher]


class Model(BaseModel):
    """A model as OpenAI's clients read it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "counterhint"
    max_model_len: int


class Models(BaseModel):
    """A list of models as OpenAI's clients read it."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/v1/teachers")
async def teachers(gateway: GatewayState, _: AnyCaller) -> Teachers:
    """What the connected teachers have in common; an empty list while there is none."""
    found = await gateway.queue.teacher()
    if found is None:
        return Teachers(teachers=[])
    tokenizer = gateway.tokenizer
    facts: dict[str, Any] = {**asdict(found), "outputs": list(found.outputs)}
    takes_text = tokenizer is not None and tokenizer.fingerprint == found.tokenizer_fingerprint
    return Teachers(teachers=[Teacher(**facts, takes_text=takes_text)])


@router.get("/v1/models")
async def models(gateway: GatewayState, _: AnyCaller) -> Models:
    """The teacher's model."""
    found = await gateway.queue.teacher()
    if found is None:
        return Models(data=[])
    return Models(data=[Model(id=found.model_id, max_model_len=found.max_model_len)])
