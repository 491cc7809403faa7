"""Logged rollouts of a run in the shape of a score reply, so that one view shows both."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

_SPLIT = "\N{REPLACEMENT CHARACTER}"
"""What decoders make of half a character."""


def rollouts_reply(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of `rollouts.jsonl` as a reply of `POST /v1/distill/score`, a response a row.

    A response has further `step`, `problem_id`, `problem`, `answer`, `response_answer`, `correct`
    and `hints` (the texts of its hints, by context).
    """
    responses = [_response(index, row) for index, row in enumerate(rows)]
    names = dict.fromkeys(name for one in responses for name in one["tokens"]["log_probs"])
    return {"contexts": [{"name": name} for name in names], "responses": responses}


def _response(index: int, row: Mapping[str, Any]) -> dict[str, Any]:
    texts = row["tokens"]
    scored = "correct_hint" in row
    return {
        "index": index,
        **{
            name: row.get(name)
            for name in (
                *("step", "problem_id", "problem", "answer", "response_answer", "correct"),
                "advantage",
            )
        },
        "hints": _hints(row),
        "text": "".join(texts),
        "e_c_from": "student" if "e_c" in row else None,
        "missing": [] if scored else [{"context": "correct", "reason": "NOT_SCORED"}],
        "tokens": {
            "id": row["token_ids"],
            "text": texts,
            "bytes": _offsets(texts),
            "class": row.get("token_classes"),
            "student": row.get("student"),
            "log_probs": _log_probs(row) if scored else {},
            **{name: row.get(name) for name in ("e_c", "e_ctr", "selected", "modulated")},
            "residual": None,
        },
    }


def _log_probs(row: Mapping[str, Any]) -> dict[str, Any]:
    wrong = {f"wrong {number}": one for number, one in enumerate(row.get("wrong_hints", ()), 1)}
    return {"correct": row["correct_hint"], **wrong}


def _hints(row: Mapping[str, Any]) -> dict[str, str]:
    texts = row.get("hint_texts")
    if texts is None:
        return {}
    wrong = {f"wrong {number}": text for number, text in enumerate(texts["wrong"], 1)}
    return {"correct": texts["correct"], **wrong}


def _offsets(texts: list[str]) -> list[tuple[int, int] | None]:
    """Where each token lies in the UTF-8 of all; None for the tokens that share a character.

    Of those, the last has the character as its text, and the ones before have none.
    """
    ends = np.cumsum([0, *(len(text.encode()) for text in texts)]).tolist()
    shared = [text == "" or _SPLIT in text for text in texts]
    return [
        None if own or before else bounds
        for own, before, bounds in zip(shared, [False, *shared], pairwise(ends), strict=False)
    ]
