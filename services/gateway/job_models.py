"""Bodies and replies of `/v1/jobs`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from services.gateway.errors import ErrorFacts
from services.gateway.score_models import (
    MAX_RESPONSES,
    Addressed,
    Body,
    Entries,
    Ids,
    ScoreRequest,
    TokenId,
)
from services.gateway.score_reply import CostReply, Numbers, ScoreReply, TopToken
from services.queue.records import JobState

MAX_CONTEXTS = 256
"""Contexts of one raw job."""
MAX_PAIRS = 4096
"""Pairs of one raw job."""


class RawOutputs(Body):
    """What to return for each position of a response."""

    sampled: bool = True
    """The log prob of the token that stands there."""
    top_k: int = Field(0, ge=0, lt=2**31)
    """How many of the most probable tokens."""
    entropy: bool = False
    """The entropy of the distribution, in nats."""


class RawJob(Addressed):
    """A job in token ids: which responses to score under which contexts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"contexts": [[1, 5, 6], [1, 7]], "responses": [[3, 4]], "pairs": [[0, 0]]}
            ]
        }
    )

    contexts: Entries[Ids] = Field(min_length=1, max_length=MAX_CONTEXTS)
    """Prompts, each once."""
    responses: Entries[Ids] = Field(min_length=1, max_length=MAX_RESPONSES)
    """Responses, each once."""
    pairs: Entries[Annotated[Entries[int], Field(min_length=2, max_length=2)]] = Field(
        min_length=1, max_length=MAX_PAIRS
    )
    """Context index and response index of each pair."""
    outputs: RawOutputs = RawOutputs()
    token_ids: Entries[Entries[Annotated[Entries[TokenId], Field(min_length=1)]]] | None = None
    """Further ids to score: for each response, for each of its positions, as many everywhere."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        outputs = self.outputs
        if not (outputs.sampled or outputs.top_k or outputs.entropy or self.token_ids):
            raise ValueError("ask for something: outputs.sampled, top_k or entropy, or token_ids")
        return self

    @model_validator(mode="after")
    def _ids_fit(self) -> Self:
        if self.token_ids is None:
            return self
        wanted, given = list(map(len, self.responses)), list(map(len, self.token_ids))
        if wanted != given:
            raise ValueError(
                f"token_ids has the rows {given}, but the responses have {wanted} tokens: give a "
                "row for each position of each response"
            )
        if len({len(row) for rows in self.token_ids for row in rows}) > 1:
            raise ValueError("the rows of token_ids differ in length: give as many ids everywhere")
        return self

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        contexts, responses = len(self.contexts), len(self.responses)
        for index, (context, response) in enumerate(self.pairs):
            if not (0 <= context < contexts and 0 <= response < responses):
                raise ValueError(
                    f"pairs.{index} is [{context}, {response}], but there are {contexts} contexts "
                    f"and {responses} responses"
                )
        return self


def _kind(body: Any) -> str:
    raw = isinstance(body, RawJob) or (isinstance(body, dict) and "pairs" in body)
    return "<raw>" if raw else "<score>"


JobBody = Annotated[
    Annotated[ScoreRequest, Tag("<score>")] | Annotated[RawJob, Tag("<raw>")], Discriminator(_kind)
]
"""The body of a job: of the scoring route, or in token ids, with `pairs`."""


class RawPairReply(BaseModel):
    """The scores of one pair; a column has one entry a token of the response."""

    context: int
    response: int
    log_probs: Numbers | None = None
    entropy: Numbers | None = None
    top_k: list[list[TopToken]] | None = None
    given: list[Numbers] | None = Field(None, description="Of `token_ids`, a row a token.")
    missing: str | None = Field(description="Why numbers are null.")


class RawReply(BaseModel):
    """The result of a job in token ids."""

    id: str
    model: str
    weights_revision: str
    tokenizer_fingerprint: str
    engine: str
    pairs: list[RawPairReply]
    cost: CostReply


class JobReply(BaseModel):
    """A job, and what came of it."""

    id: str
    run: str
    kind: Literal["score", "raw"] | None = Field(
        description="Null for a job that did not come over HTTP: it has no result here."
    )
    state: JobState
    priority: int
    cost_tokens: int = Field(description="Tokens that the run is charged.")
    attempts: int
    result: ScoreReply | RawReply | None = Field(description="Once the state is done.")
    error: ErrorFacts | None = Field(description="Once the job has ended in any other way.")
