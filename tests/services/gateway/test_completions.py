"""`/v1/completions` in front of a real teacher, against the model's own forward passes."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from counterhint.jobs import Missing, Scores
from counterhint.messages import scores_to_message
from counterhint.v1 import scoring_pb2
from services.gateway.app import make_app
from services.gateway.state import Gateway
from services.gateway.tokenizer import Tokenizer
from services.queue.memory import MemoryQueue
from services.queue.records import QueueSettings
from services.submission import Submissions
from tests.services.dispatching import dispatching
from tests.services.gateway.running import scripted

TEXT = "So né 3 + 4 = 7 🙂"


Answer = tuple[int, dict[str, Any]]
Ask = Callable[..., Answer]


@pytest.fixture
def ask(byte_level_model: Path, byte_level_teacher: str, tokenizer: Tokenizer) -> Ask:
    """Sends one body to a gateway, and gives status and reply."""

    async def send(body: dict[str, Any], tokenizer: Tokenizer | None) -> Answer:
        async with MemoryQueue(QueueSettings()) as queue, dispatching(queue, [byte_level_teacher]):
            while await queue.teacher() is None:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
            gateway = Gateway(queue, Submissions(queue), tokenizer)
            transport = httpx.ASGITransport(make_app(gateway))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                answer = await client.post("/v1/completions", json=body)
                return answer.status_code, answer.json()

    def ask(*, text: bool = True, **body: Any) -> Answer:
        sent = {"model": byte_level_model.name, "temperature": 0, **body}
        return asyncio.run(send(sent, tokenizer if text else None))

    return ask


@torch.no_grad()
def distributions(model: Path, ids: list[int]) -> torch.Tensor:
    """Log probs of each next token, `[T, V]`."""
    network = LlamaForCausalLM.from_pretrained(model)
    return network(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def test_echoed_prompts_have_the_model_s_log_probs(ask: Ask, byte_level_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_level_model)
    prompts = [TEXT, "2"]
    status, reply = ask(prompt=prompts, max_tokens=1, echo=True, logprobs=3)
    assert status == 200, reply
    for prompt, choice in zip(prompts, reply["choices"], strict=True):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        wanted = distributions(byte_level_model, ids)
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(ids) + 1
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        best = wanted.argmax(-1).tolist()
        written = [*ids[1:], best[-1]]
        for row, token in enumerate(written):
            value, top = found["token_logprobs"][row + 1], found["top_logprobs"][row + 1]
            assert math.isclose(value, wanted[row, token], abs_tol=2e-4)
            # What evaluation clients compare, exactly.
            assert (value == max(top.values())) == (token == best[row])
            assert len(top) in (3, 4)
        assert choice["text"].startswith(prompt)
        assert choice["finish_reason"] == "length"
    read = sum(len(tokenizer.encode(prompt, add_special_tokens=False)) for prompt in prompts)
    usage = {"prompt_tokens": read, "completion_tokens": 2, "total_tokens": read + 2}
    assert reply["usage"] == usage
    assert (reply["object"], reply["model"]) == ("text_completion", byte_level_model.name)


def test_characters_that_are_split_over_tokens_are_shown_as_bytes(ask: Ask) -> None:
    status, reply = ask(prompt=TEXT, max_tokens=0, echo=True, logprobs=1)
    assert status == 200, reply
    (choice,) = reply["choices"]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert choice["text"] == TEXT
    spelled = b"".join(
        bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
        if token.startswith("bytes:")
        else token.encode()
        for token in tokens
    )
    assert spelled.decode() == TEXT
    assert any(token.startswith("bytes:") for token in tokens)
    for token, offset in zip(tokens, offsets, strict=True):
        if not token.startswith("bytes:"):
            assert TEXT[offset:].startswith(token)


def test_token_ids_and_text_say_the_same(ask: Ask, byte_level_model: Path) -> None:
    ids = AutoTokenizer.from_pretrained(byte_level_model).encode(TEXT, add_special_tokens=False)
    of_text = ask(prompt=TEXT, max_tokens=0, echo=True, logprobs=0)[1]["choices"][0]
    of_ids = ask(prompt=ids, max_tokens=0, echo=True, logprobs=0)[1]["choices"][0]
    of_lists = ask(prompt=[ids, ids[:1]], max_tokens=0, echo=True, logprobs=0)[1]["choices"]
    assert of_ids == of_text == of_lists[0]
    assert of_ids["logprobs"]["top_logprobs"] is None
    assert of_lists[1]["logprobs"]["token_logprobs"] == [None]
    bare = ask(text=False, prompt=ids, max_tokens=0, echo=True, logprobs=0)[1]["choices"][0]
    assert bare["logprobs"]["token_logprobs"] == of_ids["logprobs"]["token_logprobs"]
    assert bare["logprobs"]["tokens"] == [f"token_id:{index}" for index in ids]


def test_the_next_token_alone(ask: Ask, byte_level_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_level_model)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    best = int(distributions(byte_level_model, ids)[-1].argmax())
    status, reply = ask(prompt=ids, max_tokens=1, logprobs=2)
    assert status == 200, reply
    (choice,) = reply["choices"]
    assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["top_logprobs"]) == 1
    value = choice["logprobs"]["token_logprobs"][0]
    assert math.isclose(value, distributions(byte_level_model, ids)[-1, best], abs_tol=2e-4)
    assert choice["logprobs"]["text_offset"] == [0]
    assert ask(prompt=ids, max_tokens=1)[1]["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ({"prompt": "a", "max_tokens": 2}, 422, "INVALID_REQUEST", "scores and does not write"),
        ({"prompt": "a"}, 422, "INVALID_REQUEST", "max_tokens=16"),
        ({"prompt": "a", "max_tokens": 0}, 422, "INVALID_REQUEST", "asks for nothing"),
        ({"prompt": "a", "max_tokens": 1, "temperature": 1}, 422, "INVALID_REQUEST", "send 0"),
        ({"prompt": "a", "max_tokens": 1, "n": 2}, 422, "INVALID_REQUEST", "n=2"),
        ({"prompt": "a", "max_tokens": 1, "stream": True}, 422, "INVALID_REQUEST", "stream=True"),
        ({"prompt": [], "max_tokens": 1}, 422, "INVALID_REQUEST", "prompt"),
        ({"prompt": "", "max_tokens": 1}, 422, "EMPTY_PROMPT", "prompt 0 has no token"),
        ({"prompt": "a", "max_tokens": 1, "model": "gpt"}, 404, "MODEL_NOT_FOUND", "byte-level"),
        ({"prompt": [[1, 2], [1, 9999]], "max_tokens": 1}, 422, "TOKEN_ID_OUT_OF_RANGE", "9999"),
        ({"prompt": [1] * 1024, "max_tokens": 1}, 422, "PAIR_TOO_LONG", "at most 1024"),
        ({"prompt": "a", "max_tokens": 1, "text": False}, 422, "NO_TOKENIZER", "--tokenizer"),
    ],
)
def test_what_a_teacher_cannot_do_is_refused_by_name(
    ask: Ask, body: dict[str, Any], status: int, code: str, text: str
) -> None:
    found, reply = ask(**body)
    assert (found, reply["error"]["code"]) == (status, code)
    assert text in reply["error"]["message"]


def test_log_probs_that_are_missing_are_an_error() -> None:
    prompt = [1, 2, 3]
    body = {"model": "scripted", "prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": 0}

    async def run() -> None:
        async with MemoryQueue() as queue:
            await queue.publish_teacher(scripted(None).info, 600.0)
            transport = httpx.ASGITransport(make_app(Gateway(queue, Submissions(queue))))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                asking = asyncio.create_task(client.post("/v1/completions", json=body))
                claim = await queue.claim("worker", 60.0)
                assert claim is not None
                response = scoring_pb2.ScoreResponse(id=claim.id)
                response.scores.CopyFrom(
                    scores_to_message(
                        Scores(
                            sampled=np.full(2, np.nan, np.float32),
                            valid=np.zeros(2, np.bool_),
                            missing=(Missing(0, "ENGINE_FAILED"),),
                        )
                    )
                )
                await queue.complete(claim, response.SerializeToString())
                answer = await asking
                assert answer.status_code == 500
                assert answer.json()["error"]["code"] == "ENGINE_FAILED"

    asyncio.run(run())
