"""The signals token by token: the rollouts that the report shows, and the mean by token class."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_TOKENS = 60_000
"""Tokens of all rollouts in one report: about 5 MB of page."""
_SCALE_PERCENTILE = 98
OTHER = "other"
"""Name of the class of the tokens that no other class has."""
_PER_TOKEN = ("student", "correct_hint", "e_c", "e_ctr", "modulated")


@dataclass(frozen=True, slots=True)
class ClassMean:
    """The signals on the tokens of one class."""

    name: str
    tokens: int
    """Tokens that have the one-sided signal."""
    one_sided: float
    """Mean |e_c| per token."""
    one_sided_share: float
    """Share of the sum of |e_c| over all tokens that falls on this class."""
    contrast: float | None
    """Mean |e_ctr| per token; None where the method has no contrast."""
    contrast_share: float | None
    """Share of the sum of |e_ctr|."""


def choose_rollouts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rollouts when they fit the page, else ones evenly spread over the run."""
    total = sum(len(row["tokens"]) for row in rows)
    if total <= MAX_TOKENS:
        return list(rows)
    count = max(1, len(rows) * MAX_TOKENS // total)
    return [rows[index * len(rows) // count] for index in range(count)]


def page_data(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rollouts as the page's script reads them; a missing value is null.

    Raises:
        ValueError: A per-token list is not as long as the rollout's tokens.
    """
    return {
        "rollouts": [_rollout(row) for row in rows],
        "scales": {signal: _scale(rows, signal) for signal in ("e_ctr", "e_c")},
    }


def class_means(rows: Iterable[dict[str, Any]]) -> list[ClassMean]:
    """The signals by token class, over the tokens that have the signal.

    Args:
        rows: Rollouts, with the class of each token.

    Returns:
        One entry for each class that has a signal, `OTHER` last; empty without any signal.
    """
    sizes: dict[str, dict[str, list[float]]] = {"e_c": {}, "e_ctr": {}}
    for row in rows:
        for signal, by_class in sizes.items():
            values = _values(row, signal)
            for name, value in zip(_classes_of(row), values, strict=True):
                if value is not None:
                    by_class.setdefault(name, []).append(abs(value))
    totals = {signal: sum(map(sum, found.values())) or 1.0 for signal, found in sizes.items()}
    means = []
    for name in sorted(sizes["e_c"], key=lambda name: name == OTHER):
        one_sided, contrast = sizes["e_c"][name], sizes["e_ctr"].get(name)
        means.append(
            ClassMean(
                name,
                len(one_sided),
                sum(one_sided) / len(one_sided),
                sum(one_sided) / totals["e_c"],
                sum(contrast) / len(contrast) if contrast else None,
                sum(contrast) / totals["e_ctr"] if contrast else None,
            )
        )
    return means


def has_signal(rows: Iterable[Mapping[str, Any]], signal: str) -> bool:
    """Whether any of the rollouts carries a signal."""
    return any(value is not None for row in rows for value in row.get(signal) or ())


def _classes_of(row: Mapping[str, Any]) -> Sequence[str]:
    return row.get("token_classes") or [OTHER] * len(row["tokens"])


def _rollout(row: Mapping[str, Any]) -> dict[str, Any]:
    hints = row.get("hint_texts") or {}
    selected = row.get("selected") or [None] * len(row["tokens"])
    return {
        "step": row["step"],
        "problem_id": row.get("problem_id"),
        "problem": row.get("problem", ""),
        "answer": row.get("answer"),
        "response_answer": row.get("response_answer"),
        "correct": bool(row["correct"]),
        "advantage": _rounded(row.get("advantage")),
        "tokens": row["tokens"],
        "token_ids": row["token_ids"],
        "token_classes": _classes_of(row),
        **{key: [_rounded(value) for value in _values(row, key)] for key in _PER_TOKEN},
        "wrong_hints": [
            [_rounded(value) for value in branch] for branch in row.get("wrong_hints") or []
        ],
        "selected": selected,
        "hints": {"correct": hints.get("correct"), "wrong": list(hints.get("wrong") or [])},
    }


def _values(row: Mapping[str, Any], key: str) -> list[float | None]:
    """A per-token list; a rollout without this signal has a missing value at each token."""
    values = row.get(key) or [None] * len(row["tokens"])
    if len(values) != len(row["tokens"]):
        raise ValueError(
            f"rollouts.jsonl, step {row['step']}: {len(values)} values of {key} for "
            f"{len(row['tokens'])} tokens"
        )
    return values


def _scale(rows: Iterable[dict[str, Any]], signal: str) -> float | None:
    """The |signal| that gets full colour, None where no token has the signal."""
    sizes = [abs(value) for row in rows for value in _values(row, signal) if value is not None]
    return _rounded(float(np.percentile(sizes, _SCALE_PERCENTILE))) if sizes else None


def _rounded(value: float | None) -> float | None:
    """4 significant digits, to keep the page small; what is not a number is missing."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}") + 0.0  # turns -0.0 into 0.0
