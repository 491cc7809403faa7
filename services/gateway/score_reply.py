"""From a job's scores to the reply's columns: log probs, contrast, gate, token by token.

Columns have one entry a token. A number that is missing is null, and `missing` says why; numbers
are rounded to 7 decimals, which is below what float32 tells apart.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from counterhint.contrast import Gate, contrast, modulate, one_sided
from counterhint.jobs import Cost, Scores, ScoringResult
from counterhint.tensors import TokenIds
from services.gateway.score_plan import CORRECT, UNHINTED, ScorePlan
from services.gateway.tokenizer import Tokenizer

_DECIMALS = 7
NO_WRONG_HINT = "NO_WRONG_HINT"
NO_STUDENT = "NO_STUDENT_AND_NO_UNHINTED"
NO_ADVANTAGE = "NO_ADVANTAGE"
NO_TOKENIZER = "NO_TOKENIZER"

Numbers = list[float | None]


class ContextReply(BaseModel):
    """A context of the reply."""

    name: str
    """`correct`, `wrong 1`, …, `unhinted`."""
    tokens: int


class TopToken(BaseModel):
    """One of the teacher's most probable tokens."""

    id: int
    text: str | None
    log_prob: float


class TokenColumns(BaseModel):
    """One entry a token."""

    id: list[int]
    text: list[str] | None = Field(description="Pieces of `text`, one after another.")
    bytes: list[tuple[int, int]] | None = Field(description="Offsets into the UTF-8 of `text`.")
    classes: list[str] | None = Field(alias="class", description="style, task or other.")
    student: Numbers | None
    log_probs: dict[str, Numbers] = Field(description="By context.")
    e_c: Numbers | None = Field(description="Correct hint against student or unhinted teacher.")
    e_ctr: Numbers | None = Field(description="Correct hint against the mean of the wrong ones.")
    selected: list[bool | None] | None = Field(description="Whether the gate lets the token pass.")
    residual: Numbers | None = Field(description="The change of the advantage.")
    modulated: Numbers | None = Field(description="The advantage after the gate.")
    entropy: dict[str, Numbers] | None = None
    top_k: dict[str, list[list[TopToken]]] | None = None


class MissingReply(BaseModel):
    """Why numbers are null: those of a context, or a whole column."""

    context: str | None = None
    column: str | None = None
    reason: str


class ResponseReply(BaseModel):
    """One response, token by token."""

    index: int
    advantage: float | None
    e_c_from: str | None = Field(description="`student`, `unhinted` or null: what e_c is against.")
    tokens: TokenColumns
    text: str | None
    missing: list[MissingReply]


class CostReply(BaseModel):
    """What it cost."""

    tokens_naive: int
    tokens_computed: int
    tokens_cached: int
    engine_seconds: float
    wait_seconds: float


class ScoreReply(BaseModel):
    """The scores of all responses."""

    id: str
    model: str
    weights_revision: str
    tokenizer_fingerprint: str
    engine: str
    gate: dict[str, float]
    contexts: list[ContextReply]
    responses: list[ResponseReply]
    cost: CostReply


def score_reply(
    reply_id: str, plan: ScorePlan, gate: Gate, result: ScoringResult, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """The reply as it is sent; see `ScoreReply`.

    Args:
        reply_id: what the reply is called.
        plan: what was asked for.
        gate: the gate's parameters.
        result: of a job of all responses.
        tokenizer: the teacher's; None leaves texts, offsets and classes null.
    """
    return {
        "id": reply_id,
        **head_of(result),
        **plan_facts(plan, gate),
        "responses": [
            response_reply(plan, index, index, gate, result, tokenizer)
            for index in range(len(plan.responses))
        ],
        "cost": cost_reply(result.cost),
    }


def head_of(result: ScoringResult) -> dict[str, str]:
    """What computed the scores."""
    return {
        "model": result.model_id,
        "weights_revision": result.weights_revision,
        "tokenizer_fingerprint": result.tokenizer_fingerprint,
        "engine": f"{result.engine} {result.engine_version}",
    }


def plan_facts(plan: ScorePlan, gate: Gate) -> dict[str, Any]:
    """The gate, and the contexts with their lengths."""
    return {
        "gate": asdict(gate),
        "contexts": [
            {"name": name, "tokens": len(context)}
            for name, context in zip(plan.names, plan.contexts, strict=True)
        ],
    }


def cost_reply(cost: Cost) -> dict[str, Any]:
    """What a job cost."""
    return {name: getattr(cost, name) for name in CostReply.model_fields}


def response_reply(
    plan: ScorePlan,
    index: int,
    row: int,
    gate: Gate,
    result: ScoringResult,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """One response; see `ResponseReply`.

    Args:
        plan: what was asked for.
        index: of the response in the plan.
        row: of the response in the result's job.
        gate: the gate's parameters.
        result: holds the scores under every context.
        tokenizer: the teacher's; None leaves texts, offsets and classes null.
    """
    item, token_ids = plan.items[index], plan.responses[index]
    first = row * len(plan.names)
    scores = {name: result.pair(first + c) for c, name in enumerate(plan.names)}
    missing = [
        {"context": plan.names[one.pair - first], "reason": one.reason}
        for one in result.scores.missing
        if 0 <= one.pair - first < len(plan.names)
    ]
    student = None
    if item.student_log_probs is not None:
        student = np.array(item.student_log_probs, dtype=np.float64)
    signals, without, e_c_from = _signals(scores, student, item.advantage, gate)
    text, columns = _token_columns(token_ids, item.text, tokenizer)
    if tokenizer is None:
        without |= dict.fromkeys(("text", "bytes", "class"), NO_TOKENIZER)
    columns |= {
        "student": None if student is None else numbers(student),
        "log_probs": {name: numbers(_sampled(one)) for name, one in scores.items()},
        **signals,
    }
    if plan.outputs.entropy:
        columns["entropy"] = {
            name: numbers(one.entropy) for name, one in scores.items() if one.entropy is not None
        }
    if plan.outputs.top_k:
        columns["top_k"] = {name: top_tokens(one, tokenizer) for name, one in scores.items()}
    missing += [{"column": column, "reason": reason} for column, reason in without.items()]
    return {
        "index": index,
        "advantage": item.advantage,
        "e_c_from": e_c_from,
        "tokens": columns,
        "text": text,
        "missing": missing,
    }


def numbers(values: NDArray[np.floating]) -> Numbers:
    """The values as JSON has them, `[T]`; null for what is not a number."""
    rounded = np.round(values.astype(np.float64), _DECIMALS) + 0.0  # turns -0.0 into 0.0
    if np.isfinite(rounded).all():
        plain: Numbers = rounded.tolist()
        return plain
    return _with_gaps(rounded, np.isfinite(rounded))


def top_tokens(scores: Scores, tokenizer: Tokenizer | None) -> list[list[dict[str, Any]]]:
    """The most probable tokens at each position, best first; none where they are missing."""
    ids, log_probs = scores.top_k_ids, scores.top_k_log_probs
    assert ids is not None  # they were asked for
    assert log_probs is not None
    flat = ids.reshape(-1)
    texts = [None] * len(flat) if tokenizer is None else tokenizer.texts_of(flat)
    entries = [
        {"id": index, "text": text, "log_prob": log_prob} if index >= 0 else None
        for index, text, log_prob in zip(
            flat.tolist(), texts, numbers(log_probs.reshape(-1)), strict=True
        )
    ]
    k = ids.shape[1]
    rows = [entries[start : start + k] for start in range(0, len(entries), k)]
    return [[entry for entry in row if entry is not None] for row in rows]


def _with_gaps(values: NDArray[Any], known: NDArray[np.bool_]) -> list[Any]:
    """The values, with None where they are not known, `[T]`."""
    shown = values.astype(object)
    shown[~known] = None
    return list(shown.tolist())


def _signals(
    scores: dict[str, Scores],
    student: NDArray[np.float64] | None,
    advantage: float | None,
    gate: Gate,
) -> tuple[dict[str, Any], dict[str, str], str | None]:
    """The signals' columns, why some are null, and what the one-sided one is against."""
    signals: dict[str, Any] = dict.fromkeys(("e_c", "e_ctr", "selected", "residual", "modulated"))
    without: dict[str, str] = {}
    correct = _sampled(scores[CORRECT])
    against, e_c_from = student, "student"
    if against is None and UNHINTED in scores:
        against, e_c_from = _sampled(scores[UNHINTED]), UNHINTED
    if against is None:
        without["e_c"] = NO_STUDENT
    else:
        signals["e_c"] = numbers(one_sided(correct, against))
    wrong = [_sampled(one) for name, one in scores.items() if name not in (CORRECT, UNHINTED)]
    # The mean is over the wrong hints that have numbers.
    wrong = [one for one in wrong if not np.isnan(one).all()]
    if not wrong:
        without |= dict.fromkeys(("e_ctr", "selected", "residual", "modulated"), NO_WRONG_HINT)
        return signals, without, e_c_from if against is not None else None
    e_ctr = contrast(correct, np.stack(wrong))
    known = np.isfinite(e_ctr)
    modulation = modulate(e_ctr, advantage or 0.0, gate)
    signals["e_ctr"] = numbers(e_ctr)
    signals["residual"] = numbers(modulation.residual)
    signals["selected"] = _with_gaps(modulation.selected, known)
    if advantage is None:
        without["modulated"] = NO_ADVANTAGE
    else:
        signals["modulated"] = numbers(np.where(known, modulation.advantage, np.nan))
    return signals, without, e_c_from if against is not None else None


def _sampled(scores: Scores) -> NDArray[np.float64]:
    assert scores.sampled is not None  # always asked for
    return scores.sampled.astype(np.float64)


def _token_columns(
    token_ids: TokenIds, text: str | None, tokenizer: Tokenizer | None
) -> tuple[str | None, dict[str, Any]]:
    """The response's text, and what there is to each token without any score."""
    if tokenizer is None:
        return text, {"id": token_ids.tolist(), "text": None, "bytes": None, "class": None}
    pieces = tokenizer.pieces(token_ids, text)
    return pieces.text, {
        "id": token_ids.tolist(),
        "text": pieces.texts,
        "bytes": pieces.offsets.tolist(),
        "class": tokenizer.classes_of(token_ids),
    }
