"""`POST /v1/distill/score` in front of a real teacher, against its own scores and numpy."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from counterhint import Outputs, ScoringClient, ScoringJob, contrast, pairs_array
from services.gateway.score_reply import ScoreReply
from services.gateway.tokenizer import Tokenizer
from tests.services.gateway.running import EXAMPLE, with_gateway
from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer

WRONG = [{"hint": "2+3=6", "answer": "6"}, {"hint": "é🙂 is 9", "answer": "9"}]


@pytest.fixture
def score(byte_level_teacher: str, tokenizer: Tokenizer) -> Any:
    """Posts bodies to one gateway; gives status and reply of each."""

    def post(*bodies: dict[str, Any], text: bool = True) -> list[tuple[int, dict[str, Any]]]:
        answers: list[tuple[int, dict[str, Any]]] = []

        async def use(client: httpx.AsyncClient) -> None:
            for body in bodies:
                answer = await client.post("/v1/distill/score", json=body)
                answers.append((answer.status_code, answer.json()))

        with_gateway(use, [byte_level_teacher], tokenizer=tokenizer if text else None)
        return answers

    return post


def arrays(reply: dict[str, Any], index: int = 0) -> dict[str, np.ndarray]:
    return {
        name: np.array(column)
        for name, column in reply["responses"][index]["tokens"]["log_probs"].items()
    }


def test_log_probs_are_the_teacher_s_and_signals_are_numpy_s(
    score: Any, byte_level_teacher: str, tokenizer: Tokenizer
) -> None:
    response = "2+3 = né 5"
    ids = tokenizer.encode(response, "x")
    student = np.linspace(-3, -0.1, len(ids)).round(3)
    body = {
        **EXAMPLE,
        "wrong_hints": WRONG,
        "responses": [
            {"text": response, "student_log_probs": student.tolist(), "advantage": 0.4},
            "So 6",
        ],
        "top_k": 3,
        "entropy": True,
        "gate": {"tau": 0.1, "lam": 0.7},
    }
    ((status, reply),) = score(body)
    assert status == 200
    ScoreReply.model_validate(reply)
    assert [context["name"] for context in reply["contexts"]] == [
        *("correct", "wrong 1", "wrong 2", "unhinted")
    ]

    with ScoringClient(byte_level_teacher) as client:
        info = client.get_teacher()
        chat = "<|user|>\nWhat is 2+3?\n<|assistant|>\n"
        context = byte_level_tokenizer().encode(chat, add_special_tokens=False)
        expected = client.score(
            ScoringJob(
                id="direct",
                run_id="direct",
                contexts=(np.array(context, dtype=np.int32),),
                responses=(ids,),
                pairs=pairs_array([(0, 0)]),
                tokenizer_fingerprint=info.tokenizer_fingerprint,
                outputs=Outputs(sampled=True, top_k=3, entropy=True),
            )
        ).pair(0)
    found, tokens = arrays(reply), reply["responses"][0]["tokens"]
    assert reply["contexts"][3]["tokens"] == len(context)
    np.testing.assert_allclose(found["unhinted"], expected.sampled, atol=1e-4)
    np.testing.assert_allclose(tokens["entropy"]["unhinted"], expected.entropy, atol=1e-4)
    top = [[entry["id"] for entry in row] for row in tokens["top_k"]["unhinted"]]
    np.testing.assert_array_equal(top, expected.top_k_ids)

    assert tokens["id"] == ids.tolist()
    assert "".join(tokens["text"]) == reply["responses"][0]["text"] == response
    assert reply["responses"][0]["e_c_from"] == "student"
    np.testing.assert_allclose(tokens["e_c"], found["correct"] - student, atol=1e-6)
    e_ctr = contrast(found["correct"], np.stack([found["wrong 1"], found["wrong 2"]]))
    np.testing.assert_allclose(tokens["e_ctr"], e_ctr, atol=1e-6)
    gate = reply["gate"]
    residual = np.clip(gate["beta"] * 0.7 * np.tanh(e_ctr / 0.1), -2, 2)
    np.testing.assert_allclose(tokens["residual"], residual, atol=1e-4)
    assert tokens["selected"] == (np.abs(residual) > gate["delta"]).tolist()
    assert any(tokens["selected"])
    changed = np.where(tokens["selected"], np.maximum(0.4 + residual, 0), 0.4)
    np.testing.assert_allclose(tokens["modulated"], changed, atol=1e-4)

    second = reply["responses"][1]
    assert (second["advantage"], second["tokens"]["modulated"]) == (None, None)
    assert second["missing"] == [{"column": "modulated", "reason": "NO_ADVANTAGE"}]
    assert second["e_c_from"] == "unhinted"
    one = arrays(reply, 1)
    np.testing.assert_allclose(second["tokens"]["e_c"], one["correct"] - one["unhinted"], atol=1e-6)
    cost = reply["cost"]
    assert cost["tokens_naive"] > cost["tokens_computed"] + cost["tokens_cached"] > 0


def test_three_ways_to_say_the_same(score: Any, tokenizer: Tokenizer) -> None:
    template = "Here is a solution to this problem for reference"

    def shown(hint: str, answer: str) -> str:
        return (
            f"What is 2+3?\n\n{template}:\n\n<reference>\n{hint}\n\nFinal answer: {answer}\n"
            "</reference>\n\nMake sure that you understand it, then solve the problem in your own "
            "words."
        )

    texts = {"correct": shown("2+3=5", "5"), "wrong": shown("2+3=6", "6")}
    plain = "What is 2+3?"

    def chat(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode_chat([{"role": "user", "content": text}], "x").tolist()
        return found

    messages = {
        "correct": chat(texts["correct"]),
        "wrong": [chat(texts["wrong"])],
        "unhinted": chat(plain),
    }
    contexts = {
        "correct": ids(texts["correct"]),
        "wrong": [ids(texts["wrong"])],
        "unhinted": ids(plain),
    }
    token_ids = {"token_ids": tokenizer.encode("2+3 = 5", "x").tolist()}
    replies = score(
        EXAMPLE,
        {"messages": messages, "responses": EXAMPLE["responses"]},
        {"contexts": contexts, "responses": [token_ids]},
    )
    assert [status for status, _ in replies] == [200] * 3
    first, *others = (reply["responses"] for _, reply in replies)
    for other in others:
        assert other[0]["tokens"]["text"] == first[0]["tokens"]["text"]
        for name, column in first[0]["tokens"]["log_probs"].items():
            np.testing.assert_allclose(other[0]["tokens"]["log_probs"][name], column, atol=1e-5)


@pytest.mark.parametrize("top_k", [2**31, 10**400])
def test_a_top_k_beyond_every_vocabulary_is_refused(score: Any, top_k: int) -> None:
    ((status, reply),) = score({**EXAMPLE, "top_k": top_k})
    assert (status, reply["error"]["param"]) == (422, "top_k")


def test_without_wrong_hints_there_is_no_contrast_and_it_says_why(score: Any) -> None:
    ((status, reply),) = score({**EXAMPLE, "wrong_hints": [], "unhinted": False})
    assert status == 200
    (response,) = reply["responses"]
    columns = ("e_ctr", "selected", "residual", "modulated", "e_c")
    assert all(response["tokens"][name] is None for name in columns)
    reasons = {one["column"]: one["reason"] for one in response["missing"]}
    assert reasons == {
        **dict.fromkeys(columns[:4], "NO_WRONG_HINT"),
        "e_c": "NO_STUDENT_AND_NO_UNHINTED",
    }
    assert response["e_c_from"] is None


def test_without_a_tokenizer_ids_are_scored_and_text_is_refused(score: Any) -> None:
    body = {"contexts": {"correct": [5, 6]}, "responses": [{"token_ids": [7, 8]}]}
    (status, reply), (refused, error) = score(body, EXAMPLE, text=False)
    assert status == 200
    (response,) = reply["responses"]
    tokens = response["tokens"]
    assert (tokens["text"], tokens["bytes"], tokens["class"], response["text"]) == (None,) * 4
    assert {"column": "text", "reason": "NO_TOKENIZER"} in response["missing"]
    assert (refused, error["error"]["code"]) == (422, "NO_TOKENIZER")


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"extra": 1}, 422, "INVALID_REQUEST", "extra"),
        ({"responses": []}, 422, "INVALID_REQUEST", "responses"),
        ({"responses": ["a"] * 257}, 422, "INVALID_REQUEST", "responses"),
        ({"responses": [""]}, 422, "EMPTY_RESPONSE", "responses.0"),
        ({"responses": [{"token_ids": [1], "text": "a"}]}, 422, "INVALID_REQUEST", "responses.0"),
        ({"responses": [{"token_ids": [-1]}]}, 422, "INVALID_REQUEST", "responses.0.token_ids.0"),
        ({"responses": [{"token_ids": [True]}]}, 422, "INVALID_REQUEST", "responses.0.token_ids.0"),
        ({"responses": [{"token_ids": [9999]}]}, 422, "TOKEN_ID_OUT_OF_RANGE", "response 0"),
        (
            {"responses": [{"text": "ab", "student_log_probs": [-1.0]}]},
            *(422, "WRONG_LENGTH", "responses.0.student_log_probs"),
        ),
        ({"correct_hint": None}, 422, "INVALID_REQUEST", None),
        ({"correct_hint": {"hint": "a"}}, 422, "INVALID_REQUEST", "correct_hint.answer"),
        ({"wrong_hints": ["no answer"]}, 422, "INVALID_REQUEST", None),
        ({"template": "/etc/passwd"}, 422, "INVALID_REQUEST", "template"),
        (
            {"messages": {"correct": [{"role": "user", "content": "a"}]}},
            422,
            "INVALID_REQUEST",
            None,
        ),
        ({"top_k": 10**6}, 422, "TOP_K_TOO_LARGE", None),
        ({"top_k": -1}, 422, "INVALID_REQUEST", "top_k"),
        ({"priority": 4}, 422, "INVALID_REQUEST", "priority"),
        ({"gate": {"tau": 0}}, 422, "INVALID_REQUEST", "gate.tau"),
        ({"gate": {"clip_low": 3}}, 422, "INVALID_REQUEST", "gate"),
        ({"timeout_seconds": 0}, 422, "INVALID_REQUEST", "timeout_seconds"),
        ({"run": "../other"}, 422, "INVALID_REQUEST", "run"),
        ({"problem": "x" * 5000}, 422, "PAIR_TOO_LONG", "correct_hint"),  # the first that has it
        ({"responses": ["x" * 5000]}, 422, "PAIR_TOO_LONG", None),
        (
            {"wrong_hints": [{"hint": "x" * 5000, "answer": "6"}]},
            *(422, "PAIR_TOO_LONG", "wrong_hints.0"),
        ),
        ({"tokenizer_fingerprint": "0" * 64}, 409, "TOKENIZER_MISMATCH", None),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_place(
    change: dict[str, Any], status: int, code: str, param: str | None, tokenizer: Tokenizer
) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/distill/score", json={**EXAMPLE, **change})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
        assert answer.json()["request_id"] == answer.headers["x-request-id"]

    with_gateway(use, tokenizer=tokenizer)


def test_another_tokenizer_than_the_teacher_s_is_refused_naming_both(
    byte_level_teacher: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    other = byte_level_tokenizer()
    content = json.loads(other.backend_tokenizer.to_str())
    content["model"]["merges"], words = [], content["model"]["vocab"]
    words["~~"] = len(words)
    for token in content["added_tokens"]:
        words.pop(token["content"], None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"})
    )
    wrong = Tokenizer.load(tmp_path)
    assert wrong.fingerprint != tokenizer.fingerprint

    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/distill/score", json=EXAMPLE)
        assert answer.status_code == 409
        message = answer.json()["error"]["message"]
        assert wrong.fingerprint in message
        assert tokenizer.fingerprint in message
        body = {"contexts": {"correct": [5, 6]}, "responses": [{"token_ids": [7, 8]}]}
        answer = await client.post("/v1/distill/score", json=body)
        assert answer.status_code == 200
        assert answer.json()["responses"][0]["tokens"]["text"] is None

    with_gateway(use, [byte_level_teacher], tokenizer=wrong)


def test_a_streamed_reply_has_a_line_for_each_response(
    score: Any, byte_level_teacher: str, tokenizer: Tokenizer
) -> None:
    long = "x" * 2000  # longer than the teacher reads
    body = {**EXAMPLE, "responses": ["a", long, "bé"]}
    ((_, whole),) = score({**EXAMPLE, "responses": ["a", "bé"]})

    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.post(
            "/v1/distill/score", json=body, headers={"Accept": "application/x-ndjson"}
        )
        assert answer.headers["content-type"] == "application/x-ndjson"
        head, *middle, end = map(json.loads, answer.text.splitlines())
        assert head["head"]["contexts"] == whole["contexts"]
        assert head["head"]["model"] == whole["model"]
        errors = [line["error"] for line in middle if "error" in line]
        assert [(error["index"], error["code"]) for error in errors] == [(1, "PAIR_TOO_LONG")]
        responses = {
            line["response"]["index"]: line["response"] for line in middle if "response" in line
        }
        assert sorted(responses) == [0, 2]
        for index, expected in zip((0, 2), whole["responses"], strict=True):
            assert responses[index]["text"] == expected["text"]
            np.testing.assert_allclose(
                responses[index]["tokens"]["e_ctr"], expected["tokens"]["e_ctr"], atol=1e-5
            )
        assert end["end"]["cost"]["tokens_naive"] == whole["cost"]["tokens_naive"]

    with_gateway(use, [byte_level_teacher], tokenizer=tokenizer)
