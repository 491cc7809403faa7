"""A vLLM server behind the OpenAI API, used as public trainers do: one request a pair.

Each pair is a prompt of token ids with `prompt_logprobs`; the server computes every context anew
and answers with a dictionary for each prompt token, in JSON.
"""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from counterhint.errors import InputError
from counterhint.jobs import ScoringJob
from teacher_server.bench.job import GroupShape

CONNECT_SECONDS = 10.0
"""How long a connection may take; an answer may take as long as it wants."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """What came back for one job."""

    log_probs: NDArray[np.float32]
    """`[N]`: of the responses' own tokens."""
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
        log_probs = np.concatenate([scores for scores, _ in replies])
        seconds = time.perf_counter() - start
        return ServerReply(log_probs, seconds, sum(size for _, size in replies))

    async def _score_pair(
        self, job: ScoringJob, context: int, response: int
    ) -> tuple[NDArray[np.float32], int]:
        """Log probs `[T]` of a response, and the bytes of the body that they came in."""
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
        log_probs = [
            position[str(token)]["logprob"]
            for position, token in zip(positions[-len(tokens) :], tokens, strict=True)
        ]
        return np.array(log_probs, dtype=np.float32), len(answer.content)

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


def _is_json(answer: httpx.Response) -> bool:
    return "application/json" in answer.headers.get("content-type", "")


def _message(answer: httpx.Response) -> str:
    """What an error says, in the forms that vLLM's releases have."""
    if not _is_json(answer):
        return answer.text[:200]
    body = answer.json()
    error = body.get("error", body)
    return str(error.get("message", error) if isinstance(error, dict) else error)
