"""Columns of scores with holes: null and a reason, never a number that is none."""

import json
from typing import Any

import numpy as np
import pytest

from counterhint.contrast import Gate, contrast
from counterhint.jobs import Cost, Missing, Outputs, Scores, ScoringResult
from services.gateway.score import to_json
from services.gateway.score_models import Response
from services.gateway.score_plan import ScorePlan
from services.gateway.score_reply import numbers, score_reply, top_tokens

NAMES = ("correct", "wrong 1", "wrong 2", "unhinted")
TOKENS = 3


def reply_of(log_probs: np.ndarray, *missing: Missing) -> dict[str, Any]:
    """The reply to one response of three tokens whose log probs by context are `[4, 3]`."""
    ids = np.array([5, 6, 7], dtype=np.int32)
    plan = ScorePlan(
        names=NAMES,
        contexts=(ids,) * 4,
        items=(Response(token_ids=ids.tolist(), advantage=-1.0),),
        responses=(ids,),
        outputs=Outputs(),
    )
    sampled = log_probs.astype(np.float32).reshape(-1)
    scores = Scores(sampled=sampled, valid=np.isfinite(sampled), missing=missing)
    result = ScoringResult(
        "a", np.full(4, TOKENS), scores, "r0", "f" * 64, "model", "engine", "1", Cost(1, 1)
    )
    content = to_json(score_reply("a", plan, Gate(), result, None))
    assert b"NaN" not in content
    (response,) = json.loads(content)["responses"]
    assert isinstance(response, dict)
    return response


def test_a_wrong_hint_without_scores_is_left_out_of_the_mean() -> None:
    log_probs = -np.arange(1.0, 13.0).reshape(4, 3)
    log_probs[1] = np.nan
    response = reply_of(log_probs, Missing(1, "ENGINE_FAILED"))
    tokens = response["tokens"]
    assert tokens["log_probs"]["wrong 1"] == [None] * TOKENS
    assert {"context": "wrong 1", "reason": "ENGINE_FAILED"} in response["missing"]
    expected = contrast(log_probs[0], log_probs[2:3])
    np.testing.assert_allclose(tokens["e_ctr"], expected, atol=1e-6)


def test_a_position_without_a_score_has_no_signal() -> None:
    log_probs = -np.arange(1.0, 13.0).reshape(4, 3)
    log_probs[0, 1] = np.nan
    tokens = reply_of(log_probs, Missing(0, "NOT_FINITE"))["tokens"]
    for name in ("e_c", "e_ctr", "residual", "selected", "modulated"):
        assert [value is None for value in tokens[name]] == [False, True, False], name
    assert tokens["log_probs"]["unhinted"] == [-10.0, -11.0, -12.0]


def test_without_any_scored_wrong_hint_there_is_no_contrast() -> None:
    log_probs = np.full((4, 3), -1.0)
    log_probs[1:3] = np.nan
    response = reply_of(log_probs, Missing(1, "A"), Missing(2, "B"))
    assert response["tokens"]["e_ctr"] is None
    assert {"column": "e_ctr", "reason": "NO_WRONG_HINT"} in response["missing"]
    assert response["tokens"]["e_c"] == [0.0] * TOKENS


def test_numbers_are_rounded_and_never_minus_zero() -> None:
    found = numbers(np.array([-1e-12, -0.123456789, np.nan, np.inf], dtype=np.float64))
    assert found == [0.0, -0.1234568, None, None]
    assert str(found[0]) == "0.0"


def test_positions_without_top_tokens_are_empty() -> None:
    scores = Scores(
        top_k_ids=np.array([[4, 5], [-1, -1]], dtype=np.int32),
        top_k_log_probs=np.array([[-0.5, -1.5], [np.nan, np.nan]], dtype=np.float32),
    )
    assert top_tokens(scores, None) == [
        [
            {"id": 4, "text": None, "log_prob": -0.5},
            {"id": 5, "text": None, "log_prob": -1.5},
        ],
        [],
    ]


def test_a_number_that_is_none_is_never_sent() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})
