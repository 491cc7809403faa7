"""One pair of a job as a vLLM request, and its scores from the reply: three paths.

- `ResponseRowsPath`: our own scoring in vLLM's first model runner; gives everything.
- `TokenIdsPath`: token-id scoring with a start position, of vLLM's second model runner; gives the
  log probs of the tokens themselves and of given ids. Top-k comes as on the next path.
- `PromptLogProbsPath`: vLLM's public prompt log probs; sampled tokens and top-k.

A reply whose rows were not all computed, because a prefix hit reached into the response, reads as
None: the pair is sent again without reading the cache.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import Outputs, Scores, ScoringJob
from counterhint.tensors import TokenIds
from teacher_server.engines.vllm.rows import (
    ROWS_WANTED,
    SCORING_START,
    RowsWanted,
    read_rows,
    read_seconds,
)

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput


@dataclass(frozen=True, slots=True)
class PairRequest:
    """A pair of a job."""

    tokens: list[int]
    """Context and response."""
    start: int
    """The first row to score, which predicts the response's first token: context length − 1."""
    given: TokenIds | None
    """int32 `[T, n]`: the ids to score at each position of the response."""
    outputs: Outputs
    """What the job asks for."""

    @property
    def response_length(self) -> int:
        """`T`."""
        return len(self.tokens) - 1 - self.start


def pair_requests(job: ScoringJob) -> list[PairRequest]:
    """The requests of a job, in the order of its pairs."""
    contexts = [context.tolist() for context in job.contexts]
    responses = [response.tolist() for response in job.responses]
    ends = np.cumsum(job.response_lengths)
    requests = []
    for context, response in job.pairs.tolist():
        given = None
        if job.token_ids is not None:
            stop = ends[response]
            given = job.token_ids[stop - len(responses[response]) : stop]
        requests.append(
            PairRequest(
                contexts[context] + responses[response],
                len(contexts[context]) - 1,
                given,
                job.outputs,
            )
        )
    return requests


class ScoringPath(ABC):
    """How vLLM is asked for the scores of a response."""

    name: ClassVar[str]
    """As in `--scoring-path`."""
    outputs: ClassVar[tuple[str, ...]]
    """What it can give."""
    counts_rows: ClassVar[bool] = False
    """Whether a reply comes only when every row was computed, however the request fared."""

    def sampling_params(self, request: PairRequest, *, cached: bool) -> "SamplingParams":
        """What is sent with the pair's tokens.

        Args:
            request: the pair.
            cached: whether the prefix cache is read.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        wanted = self._wanted(request)
        return SamplingParams(
            # One token is the least that vLLM samples; it is thrown away.
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # vLLM decides in the constructor: assigned later it has no effect.
            skip_reading_prefix_cache=not cached,
            extra_args={SCORING_START: request.start, **wanted.pop("extra_args", {})},
            **wanted,
        )

    @abstractmethod
    def _wanted(self, request: PairRequest) -> dict[str, Any]:
        """The fields of `SamplingParams` that ask for the scores."""

    def read(self, request: PairRequest, output: "RequestOutput", *, cached: bool) -> Scores | None:
        """The response's scores; None when some of its rows were not, or may not be, computed.

        Args:
            request: the pair.
            output: vLLM's last output for it.
            cached: whether the prefix cache was read.
        """
        if (output.num_cached_tokens or 0) > request.start:
            return None
        # A request that lost its place in the KV cache halfway looks for a prefix once more when it
        # goes on. That hit may reach further, and `num_cached_tokens` tells of the first alone.
        if cached and not self.counts_rows and output.metrics.num_preemptions:
            return None
        return self._read(request, output)

    @abstractmethod
    def _read(self, request: PairRequest, output: "RequestOutput") -> Scores | None: ...

    def seconds(self, output: "RequestOutput") -> float | None:
        """The request's share of vLLM's steps in seconds; None where it is not known."""
        return None


class ResponseRowsPath(ScoringPath):
    """Our own scoring in the worker: arrays of the response's rows, nothing else."""

    name = "response-rows"
    outputs = ("sampled", "top_k", "given", "entropy")
    counts_rows = True

    def _wanted(self, request: PairRequest) -> dict[str, Any]:
        given = request.given
        wanted = RowsWanted(
            request.start,
            request.outputs.top_k,
            request.outputs.entropy,
            b"" if given is None else np.ascontiguousarray(given, dtype="<i4").tobytes(),
            0 if given is None else given.shape[1],
        )
        return {"extra_args": {ROWS_WANTED: wanted.to_list()}}

    def _read(self, request: PairRequest, output: "RequestOutput") -> Scores | None:
        rows: NDArray[np.float32] | None = output.prompt_token_id_logprobs
        if rows is None:
            return None
        return read_rows(
            rows, request.outputs, 0 if request.given is None else request.given.shape[1]
        )

    def seconds(self, output: "RequestOutput") -> float | None:
        """What the worker says."""
        rows: NDArray[np.float32] | None = output.prompt_token_id_logprobs
        return None if rows is None else read_seconds(rows)


class PromptLogProbsPath(ScoringPath):
    """vLLM's prompt log probs, of which the last rows are the response's."""

    name = "prompt-log-probs"
    outputs: ClassVar[tuple[str, ...]] = ("sampled", "top_k")

    def _wanted(self, request: PairRequest) -> dict[str, Any]:
        return {"prompt_logprobs": request.outputs.top_k, "flat_logprobs": True}

    def _read(self, request: PairRequest, output: "RequestOutput") -> Scores | None:
        flat: Any = output.prompt_logprobs
        rows, width = request.response_length, request.outputs.top_k + 1
        if flat is None or len(flat.logprobs) < rows * width:
            return None
        # Aligned from the end, which is right whether or not cached rows are left out.
        log_probs = np.array(flat.logprobs[-rows * width :], dtype=np.float32).reshape(rows, width)
        ids = np.array(flat.token_ids[-rows * width :], dtype=np.int32).reshape(rows, width)
        if not np.array_equal(ids[:, 0], request.tokens[-rows:]):
            return None
        top_k = request.outputs.top_k > 0
        return Scores(
            sampled=log_probs[:, 0] if request.outputs.sampled else None,
            top_k_ids=ids[:, 1:] if top_k else None,
            top_k_log_probs=log_probs[:, 1:] if top_k else None,
        )


class TokenIdsPath(PromptLogProbsPath):
    """Token-id scoring of vLLM's second runner; top-k rides along as prompt log probs."""

    name = "token-ids"
    outputs = ("sampled", "top_k", "given")

    def _wanted(self, request: PairRequest) -> dict[str, Any]:
        tokens = np.array(request.tokens[request.start + 1 :], dtype=np.int32)[:, None]
        ids = tokens if request.given is None else np.hstack([tokens, request.given])
        wanted: dict[str, Any] = {
            "prompt_logprob_token_ids": ids,
            "prompt_logprob_start": request.start,
        }
        return wanted | (super()._wanted(request) if request.outputs.top_k else {})

    def _read(self, request: PairRequest, output: "RequestOutput") -> Scores | None:
        rows: NDArray[np.float32] | None = output.prompt_token_id_logprobs
        best = super()._read(request, output) if request.outputs.top_k else Scores()
        if rows is None or best is None:
            return None
        return Scores(
            sampled=rows[:, 0] if request.outputs.sampled else None,
            top_k_ids=best.top_k_ids,
            top_k_log_probs=best.top_k_log_probs,
            given=None if request.given is None else rows[:, 1:],
        )


PATHS: dict[str, type[ScoringPath]] = {
    path.name: path for path in (ResponseRowsPath, TokenIdsPath, PromptLogProbsPath)
}
