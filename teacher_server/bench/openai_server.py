"""A vLLM server behind the OpenAI API, used as public trainers do: one request a pair.

Each pair is a prompt of token ids with `prompt_logprobs`; the server computes every context anew
and answers with a dictionary for each prompt token, in JSON.
"""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import httpx
import numpy as np
from numpy.typing import NDArray

from counterhint.errors import InputError
from counterhint.jobs import ScoringJob
from teacher_server.bench.job import GroupShape

CONNECT_SECONDS = 10.0
"""How long a connection may take; an answer may take as long as it wants."""

_Arrays: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ServerReply:
    """What came back for one job."""

    log_probs: NDArray[np.float32]
    """`[N]`: of the responses' own tokens."""
    top_k_ids: NDArray[np.int32]
    """`[N, k]`: the most probable ids, best first."""
    top_k_log_probs: NDArray[np.float32]
    """`[N, k]`: their log probs."""
    seconds: float
    """From the first request to the last number in an array."""
    bytes: int
    """Of all bodies."""


class OpenAiServer:
    """A server at an address, which `find_model` checks before anything is scored.

    Args:
        url: http://host:port.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._model = ""
        try:
            self._client = httpx.AsyncClient(
                base_url=url.rstrip("/").removesuffix("/v1"),
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=None),
            )
        except httpx.InvalidURL as error:
            raise InputError(f"--against {url}: {error}; give http://host:port") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def find_model(self, shape: GroupShape) -> None:
        """Asks for the name of the model, and whether it takes jobs of this shape.

        Raises:
            InputError: nobody answers, it is no vLLM server, or its model is too short.
        """
        answer = await self._ask("GET", "/v1/models")
        models = answer.json().get("data", []) if _is_json(answer) else []
        if answer.status_code != 200 or not models or "max_model_len" not in models[0]:
            raise self._refusal(
                f"/v1/models is not answered as vLLM does (HTTP {answer.status_code})",
                "give the URL of a vLLM server (python -m vllm.entrypoints.openai.api_server)",
            )
        # vLLM samples one token behind the prompt.
        needed = shape.context_tokens + shape.response_tokens + 1
        if models[0]["max_model_len"] < needed:
            raise self._refusal(
                f"its model takes {models[0]['max_model_len']} tokens, a pair with the token "
                f"sampled behind it has {needed}",
                "start it with a larger --max-model-len, or lower --context-tokens",
            )
        self._model = models[0]["id"]

    async def score(self, job: ScoringJob) -> ServerReply:
        """Scores a job, all pairs at once.

        Raises:
            InputError: the server refuses a request, or answers without log probs.
        """
        start = time.perf_counter()
        replies = await asyncio.gather(
            *(self._score_pair(job, context, response) for context, response in job.pairs.tolist())
        )
        log_probs, top_k_ids, top_k_log_probs = map(
            np.concatenate, zip(*(arrays for arrays, _ in replies), strict=True)
        )
        seconds = time.perf_counter() - start
        size = sum(size for _, size in replies)
        return ServerReply(log_probs, top_k_ids, top_k_log_probs, seconds, size)

    async def _score_pair(
        self, job: ScoringJob, context: int, response: int
    ) -> tuple[_Arrays, int]:
        """The arrays of a `ServerReply` for one response, and the bytes that they came in."""
        tokens = job.responses[response].tolist()
        answer = await self._ask(
            "POST",
            "/v1/completions",
            {
                "model": self._model,
                "prompt": job.contexts[context].tolist() + tokens,
                "max_tokens": 1,
                "prompt_logprobs": job.outputs.top_k,
            },
        )
        if answer.status_code != 200:
            raise self._refusal(
                f"it refuses prompt_logprobs={job.outputs.top_k} on a prompt of token ids (HTTP "
                f"{answer.status_code}: {_message(answer)})",
                "serve the same model as --url does, with --max-logprobs no less than --top-k",
            )
        positions = answer.json()["choices"][0].get("prompt_logprobs")
        if positions is None:
            raise self._refusal(
                "it answers without prompt_logprobs", "give the URL of a vLLM server"
            )
        return _arrays(positions[-len(tokens) :], tokens, job.outputs.top_k), len(answer.content)

    async def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        try:
            return await self._client.request(method, path, json=body)
        except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
            raise self._refusal(
                f"no answer ({type(error).__name__}: {error})",
                "start a vLLM server there, or give http://host:port of one",
            ) from error

    def _refusal(self, problem: str, remedy: str) -> InputError:
        return InputError(f"--against {self._url}: {problem}; {remedy}")


def _arrays(positions: list[dict[str, Any]], tokens: list[int], k: int) -> _Arrays:
    """Log probs `[T]` of the tokens, ids and log probs `[T, k]` of the most probable ones.

    A position is a dictionary: id → rank and log prob, the token's own entry first, which is a
    further one where the token is not among the k.
    """
    log_probs = [
        position[str(token)]["logprob"] for position, token in zip(positions, tokens, strict=True)
    ]
    best = [
        sorted((entry["rank"], int(token), entry["logprob"]) for token, entry in position.items())
        for position in positions
    ]
    return (
        np.array(log_probs, dtype=np.float32),
        np.array([[token for _, token, _ in row[:k]] for row in best], dtype=np.int32),
        np.array([[log_prob for _, _, log_prob in row[:k]] for row in best], dtype=np.float32),
    )


def _is_json(answer: httpx.Response) -> bool:
    return "application/json" in answer.headers.get("content-type", "")


def _message(answer: httpx.Response) -> str:
    """What an error says, in the forms that vLLM's releases have."""
    if not _is_json(answer):
        return answer.text[:200]
    body = answer.json()
    error = body.get("error", body)
    return str(error.get("message", error) if isinstance(error, dict) else error)
