from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from counterhint.views.rollouts import rollouts_reply


def row(texts: list[str], **columns: Any) -> dict[str, Any]:
    return {"step": 1, "tokens": texts, "token_ids": list(range(len(texts))), **columns}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_bytes_are_those_of_the_text(texts: list[str]) -> None:
    (response,) = rollouts_reply([row(texts)])["responses"]
    content = response["text"].encode()
    for text, bounds in zip(texts, response["tokens"]["bytes"], strict=True):
        assert bounds is None or content[slice(*bounds)] == text.encode()


def test_tokens_that_share_a_character_have_no_bytes_of_their_own() -> None:
    (response,) = rollouts_reply([row(["a", "", "", "€", "b"])])["responses"]
    assert response["tokens"]["bytes"] == [(0, 1), None, None, None, (4, 5)]
    assert response["text"] == "a€b"


def test_rows_without_scores_have_no_contexts() -> None:
    reply = rollouts_reply([row(["a"]), row(["b"], correct_hint=[-1.0])])
    assert reply["contexts"] == [{"name": "correct"}]
    plain, scored = reply["responses"]
    assert (plain["tokens"]["log_probs"], scored["tokens"]["log_probs"]) == (
        {},
        {"correct": [-1.0]},
    )
    assert [one["reason"] for one in plain["missing"]] == ["NOT_SCORED"]
    assert rollouts_reply([]) == {"contexts": [], "responses": []}
