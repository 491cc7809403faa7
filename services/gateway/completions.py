"""`POST /v1/completions`: log likelihoods for clients of OpenAI's API, lm-eval among them.

The first token of a prompt is the context of a job, the others its response. For the most probable
next token one token more is scored, any one: the teacher names the best at its place.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from counterhint.errors import EngineFailure, InvalidJob, JobNotFound, TokenizerMismatch
from counterhint.jobs import Outputs, Scores, ScoringJob, TeacherInfo, pairs_array
from counterhint.messages import job_to_message, result_from_message
from counterhint.tensors import TokenIds
from counterhint.tokens import Caller
from services.gateway.callers import AnyCaller
from services.gateway.completion_models import (
    Completion,
    CompletionChoice,
    CompletionLogProbs,
    CompletionRequest,
    CompletionUsage,
)
from services.gateway.errors import ERROR_REPLIES
from services.gateway.json_body import JsonRoute
from services.gateway.score import new_id, to_json
from services.gateway.score_models import DEFAULT_RUN
from services.gateway.state import Gateway, GatewayState
from services.gateway.tokenizer import Tokenizer
from services.gateway.waiting import while_connected

router = APIRouter(tags=["OpenAI-compatible"], route_class=JsonRoute)

SECONDS = 3600.0
"""How long a request may take: its clients have time-outs of their own."""


@router.post("/v1/completions", response_model=Completion, responses=ERROR_REPLIES)
async def completions(
    body: CompletionRequest, request: Request, gateway: GatewayState, caller: AnyCaller
) -> Response:
    """Log probs of the tokens of prompts, as `echo` with `logprobs` gives them.

    `max_tokens` is 0 or 1; nothing is sampled. A prompt is a job of its own in the queue.
    """
    teacher = await gateway.submissions.teacher()
    if body.model != teacher.model_id:
        raise JobNotFound(
            f"there is no model {body.model!r}; the teacher is {teacher.model_id!r}",
            reason="MODEL_NOT_FOUND",
            details={"param": "model", "model": teacher.model_id},
        )
    prompts = await asyncio.to_thread(_tokenize, body, gateway.tokenizer, teacher)

    async def score_all() -> list[Scores | None]:
        async with asyncio.TaskGroup() as jobs:
            tasks = [
                jobs.create_task(_score(gateway, teacher, body, prompt, caller))
                for prompt in prompts
            ]
        return [task.result() for task in tasks]

    try:
        scores = await while_connected(request, score_all())
    except BaseExceptionGroup as group:  # of several that fail, the first one says why
        raise group.exceptions[0] from group
    view = _View(body, gateway.tokenizer)
    content = await asyncio.to_thread(
        lambda: to_json(_completion(teacher, prompts, scores, view).model_dump(mode="json"))
    )
    return Response(content, media_type="application/json")


def _tokenize(
    body: CompletionRequest, tokenizer: Tokenizer | None, teacher: TeacherInfo
) -> list[TokenIds]:
    """The prompts as int32 `[T]`, T ≥ 1.

    Raises:
        InvalidJob: a text is empty, or there is no tokenizer for it.
        TokenizerMismatch: the gateway's tokenizer is not the teacher's.
    """
    found: list[TokenIds] = []
    for index, prompt in enumerate(body.prompts):
        if isinstance(prompt, str):
            if tokenizer is None:
                raise InvalidJob(
                    "the gateway has no tokenizer: send token ids, or start it with --tokenizer",
                    reason="NO_TOKENIZER",
                    details={"param": "prompt"},
                )
            if tokenizer.fingerprint != teacher.tokenizer_fingerprint:
                raise TokenizerMismatch(tokenizer.fingerprint, teacher.tokenizer_fingerprint)
            ids = tokenizer.encode(prompt, f"prompt.{index}", framed=body.add_special_tokens)
        else:
            ids = np.array(prompt, dtype=np.int32)
        if not len(ids):
            raise InvalidJob(
                f"prompt {index} has no token: send some text",
                reason="EMPTY_PROMPT",
                details={"param": f"prompt.{index}"},
            )
        found.append(ids)
    return found


async def _score(
    gateway: Gateway,
    teacher: TeacherInfo,
    body: CompletionRequest,
    prompt: TokenIds,
    caller: Caller,
) -> Scores | None:
    """Scores of all tokens but the first, and of one behind the last where one is to be written;
    None when that is none.

    Raises:
        EngineFailure: the teacher left them out.
    """
    response = prompt[1:]
    if body.max_tokens:
        response = np.append(response, prompt[:1])
    if not len(response) or (body.logprobs is None and not body.max_tokens):
        return None
    job = ScoringJob(
        id=new_id(),
        run_id=caller.run or DEFAULT_RUN,
        contexts=(prompt[:1],),
        responses=(response,),
        pairs=pairs_array([(0, 0)]),
        tokenizer_fingerprint=teacher.tokenizer_fingerprint,
        outputs=Outputs(top_k=max(body.logprobs or 0, body.max_tokens)),
    )
    message = await gateway.submissions.score(job_to_message(job), caller, SECONDS)
    scores = result_from_message(message, job).scores
    if scores.missing:  # the reply has no place for a reason
        reason = scores.missing[0].reason
        raise EngineFailure("the teacher gave no log probs of a prompt", reason=reason)
    return scores


@dataclass(frozen=True, slots=True)
class _View:
    """What of the scores a request wants to see, and how tokens are spelled."""

    body: CompletionRequest
    tokenizer: Tokenizer | None

    def names(self, ids: NDArray[np.int32]) -> list[str]:
        """What stands for tokens in a reply; without a tokenizer `token_id:7`, as vLLM has it."""
        if self.tokenizer is None:
            return [f"token_id:{index}" for index in ids.tolist()]
        return self.tokenizer.names_of(ids)


def _completion(
    teacher: TeacherInfo, prompts: list[TokenIds], scores: list[Scores | None], view: _View
) -> Completion:
    choices = [
        _choice(index, prompt, found, view)
        for index, (prompt, found) in enumerate(zip(prompts, scores, strict=True))
    ]
    read, written = sum(map(len, prompts)), view.body.max_tokens * len(prompts)
    return Completion(
        id=f"cmpl-{new_id()}",
        created=int(time.time()),
        model=teacher.model_id,
        choices=choices,
        usage=CompletionUsage(
            prompt_tokens=read, completion_tokens=written, total_tokens=read + written
        ),
    )


def _choice(index: int, prompt: TokenIds, scores: Scores | None, view: _View) -> CompletionChoice:
    body, ids = view.body, prompt
    log_probs = np.full(len(prompt) + body.max_tokens, np.nan, dtype=np.float32)
    best_ids, best = None, None
    if scores is not None:
        assert scores.sampled is not None  # it is what was asked for
        log_probs[1:] = scores.sampled
        best_ids, best = scores.top_k_ids, scores.top_k_log_probs
    if body.max_tokens:
        assert best_ids is not None
        assert best is not None
        ids, log_probs[-1] = np.append(prompt, best_ids[-1, :1]), best[-1, 0]
    shown = slice(None) if body.echo else slice(len(prompt), None)
    names = view.names(ids[shown])
    text = "".join(names) if view.tokenizer is None else view.tokenizer.pieces(ids[shown]).text
    if body.logprobs is None:
        return CompletionChoice(index=index, text=text, logprobs=None)
    top: list[dict[str, float] | None] | None = None
    if body.logprobs:
        top = [None, *_top(view, ids[1:], log_probs[1:], best_ids, best)][shown]
    return CompletionChoice(
        index=index,
        text=text,
        logprobs=CompletionLogProbs(
            tokens=names,
            token_logprobs=[_number(value) for value in log_probs[shown].tolist()],
            top_logprobs=top,
            text_offset=_offsets(view, ids[shown], names),
        ),
    )


def _top(
    view: _View,
    ids: TokenIds,
    log_probs: NDArray[np.float32],
    best_ids: NDArray[np.int32] | None,
    best: NDArray[np.float32] | None,
) -> list[dict[str, float] | None]:
    """At each position the most probable tokens and the one that stands there.

    Clients tell by equal numbers whether the token is the most probable one: of a token that is
    among the best, `log_probs` becomes the number that stands there.
    """
    if best_ids is None or best is None:  # a prompt of one token
        return []
    best_ids, best = best_ids[:, : view.body.logprobs], best[:, : view.body.logprobs]
    same = best_ids == ids[:, None]
    among = same.any(axis=1)
    log_probs[among] = best[same]
    own, names = view.names(ids), view.names(best_ids.reshape(-1))
    width = best_ids.shape[1]
    rows: list[dict[str, float] | None] = []
    for row, (name, value, row_best) in enumerate(
        zip(own, log_probs.tolist(), best.tolist(), strict=True)
    ):
        if np.isnan(value):
            rows.append(None)
            continue
        entries: dict[str, float] = {}
        for other, log_prob in zip(names[row * width :], row_best, strict=False):
            entries.setdefault(other, log_prob)  # of tokens with one name, the most probable
        entries.setdefault(name, value)
        rows.append(entries)
    return rows


def _offsets(view: _View, ids: TokenIds, names: list[str]) -> list[int]:
    texts = names if view.tokenizer is None else view.tokenizer.pieces(ids).texts
    ends = np.cumsum([len(text) for text in texts])
    return [0, *ends[:-1].tolist()]


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
