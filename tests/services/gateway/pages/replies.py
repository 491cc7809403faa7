"""Score replies with seeded numbers, as the gateway sends them."""

import math
import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

CONTEXTS = ("correct", "wrong 1", "wrong 2", "unhinted")
WORDS = (
    *("First", ",", " 3", " boxes", " of", " ", "4", " apples", " make", " 3", " *", " 4"),
    *(" =", " 12", ".\n", "So", " then", ",", " the", " answer", " is", " 10", ".\n"),
)
STYLE = ("First", "So", "then", ",")


def reply_of(*responses: dict[str, Any]) -> dict[str, Any]:
    contexts = [{"name": name, "tokens": 100 + place} for place, name in enumerate(CONTEXTS)]
    return {
        "id": "score-1",
        "model": "tiny/teacher",
        "weights_revision": "0123456789abcdef",
        "tokenizer_fingerprint": "f" * 64,
        "engine": "transformers 5.0",
        "gate": {"tau": 0.02, "beta": 1, "lam": 0.5, "delta": 0.02, "clip_low": -2, "clip_high": 2},
        "contexts": contexts,
        "responses": [{**one, "index": index} for index, one in enumerate(responses)],
        "cost": {},
    }


def words(count: int) -> list[str]:
    return [WORDS[index % len(WORDS)] for index in range(count)]


def response(texts: Sequence[str], seed: int = 0, top_k: int = 3, **tokens: Any) -> dict[str, Any]:
    """A response of tokens; `tokens` replaces columns."""
    draws = random.Random(seed)
    count = len(texts)
    kinds = [_kind(text) for text in texts]
    e_ctr = [round(draws.gauss(0, 1.2 if kind == "task" else 0.05), 5) for kind in kinds]
    e_c = [round(draws.gauss(0, 0.9 if kind == "style" else 0.3), 5) for kind in kinds]
    correct = [round(-abs(draws.gauss(0, 0.8)), 5) for _ in texts]
    wrong = [round(a - b, 5) for a, b in zip(correct, e_ctr, strict=True)]
    unhinted = [round(a - b, 5) for a, b in zip(correct, e_c, strict=True)]
    log_probs = dict(zip(CONTEXTS, (correct, wrong, wrong, unhinted), strict=True))
    residual = [round(0.5 * math.tanh(one / 0.02), 5) for one in e_ctr]
    ends = list(accumulate(len(text.encode()) for text in texts))
    ids = [1000 + index for index in range(count)]
    columns = {
        "id": ids,
        "text": list(texts),
        "bytes": [list(pair) for pair in zip([0, *ends], ends, strict=False)],
        "class": kinds,
        "student": None,
        "log_probs": log_probs,
        "e_c": e_c,
        "e_ctr": e_ctr,
        "selected": [abs(one) > 0.02 for one in residual],
        "residual": residual,
        "modulated": [max(1 + one, 0) if abs(one) > 0.02 else 1.0 for one in residual],
        "top_k": {
            name: [
                [
                    {
                        "id": ids[(i - k) % count],
                        "text": texts[(i - k) % count],
                        "log_prob": round(one - k, 4),
                    }
                    for k in range(top_k)
                ]
                for i, one in enumerate(values)
            ]
            for name, values in log_probs.items()
        },
    }
    return {
        "advantage": 1.0,
        "e_c_from": "unhinted",
        "text": "".join(texts),
        "missing": [],
        "tokens": columns | tokens,
    }


def _kind(text: str) -> str:
    if text.strip() in STYLE:
        return "style"
    return "task" if text.strip().isdigit() or text.strip() in ("*", "=") else "other"
