"""Scoring jobs and their results, as Python sees them.

`N` is the sum of the pairs' response lengths: scores of all pairs lie one after another in one
array, and `ScoringResult.pair` gives the slice of one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from counterhint.tensors import TokenIds


@dataclass(frozen=True, slots=True)
class Outputs:
    """What to return for each response position."""

    sampled: bool = True
    """The log prob of the token that stands there."""
    top_k: int = 0
    """The teacher's k most probable ids with their log probs; 0 for none."""
    given: bool = False
    """The log probs of `ScoringJob.token_ids`."""
    entropy: bool = False
    """The entropy of the teacher's distribution, in nats."""

    @property
    def names(self) -> tuple[str, ...]:
        """Which of `OUTPUT_NAMES` are asked for."""
        return tuple(name for name in OUTPUT_NAMES if getattr(self, name))


OUTPUT_NAMES = tuple(field.name for field in fields(Outputs))
"""Everything that a teacher can be asked for."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights that a job wants to be scored with."""

    name: str
    """Whose weights they are: a run's name, say."""
    revision: str
    """Which of them; every score is stamped with it."""
    uri: str
    """A safetensors file where teachers can read it (`file:///…`): all tensors of a model of the
    teacher's kind, or an adapter for the teacher's own model (see `ADAPTER_METADATA`)."""
    sha256: str
    """SHA-256 of that file, in hexadecimal."""


ADAPTER_METADATA = "adapter_config"
"""The key in a safetensors file's metadata that makes it an adapter: its value is the content of
peft's `adapter_config.json` (LoRA), the tensors are those of `adapter_model.safetensors`."""


@dataclass(frozen=True)
class ScoringJob:
    """Contexts and responses, each once, and the pairs of them to score."""

    id: str
    """Chosen by the client; the same id with the same content is the same job."""
    run_id: str
    """The training run that it belongs to."""
    contexts: tuple[TokenIds, ...]
    """Prompts with or without hints; int32 `[T]` each."""
    responses: tuple[TokenIds, ...]
    """Responses; int32 `[T]` each."""
    pairs: NDArray[np.int32]
    """`[P, 2]`: context index and response index of each pair."""
    tokenizer_fingerprint: str
    """Fingerprint of the tokenizer that made the ids."""
    outputs: Outputs = field(default_factory=Outputs)
    """What to return."""
    token_ids: TokenIds | None = None
    """int32 `[sum of response lengths, n]`: the ids to score at each response position."""
    weights: Weights | None = None
    """The weights wanted; the teacher's own when None."""
    priority: int = 0
    """Higher is served first within the queue."""

    @cached_property
    def context_lengths(self) -> NDArray[np.int64]:
        """Tokens of each context, `[C]`."""
        return np.array([len(context) for context in self.contexts], dtype=np.int64)

    @cached_property
    def response_lengths(self) -> NDArray[np.int64]:
        """Tokens of each response, `[R]`."""
        return np.array([len(response) for response in self.responses], dtype=np.int64)

    @cached_property
    def pair_lengths(self) -> NDArray[np.int64]:
        """Response tokens of each pair, `[P]`."""
        return self.response_lengths[self.pairs[:, 1]]

    @cached_property
    def tokens_naive(self) -> int:
        """Tokens that one full forward pass a pair takes."""
        return int(self.context_lengths[self.pairs[:, 0]].sum() + self.pair_lengths.sum())

    @cached_property
    def context_shares(self) -> NDArray[np.int64]:
        """Tokens of each context with all the responses read after it, `[C]`; 0 if unused."""
        contexts, number = self.pairs[:, 0], len(self.contexts)
        used = np.bincount(contexts, minlength=number) > 0
        read = np.bincount(contexts, weights=self.pair_lengths, minlength=number)
        return np.where(used, self.context_lengths + read.astype(np.int64), 0)

    @cached_property
    def tokens_computed(self) -> int:
        """Tokens with every used context computed once: the cost by which the queue is fair."""
        return int(self.context_shares.sum())

    @cached_property
    def reply_bytes(self) -> int:
        """Bytes that the job's scores take at most, in memory and in a message."""
        numbers = self.outputs.sampled + self.outputs.entropy + 2 * self.outputs.top_k
        numbers += 0 if self.token_ids is None else self.token_ids.shape[1]
        return (4 * numbers + 1) * int(self.pair_lengths.sum())

    def part(self, pairs: NDArray[np.integer]) -> "ScoringJob":
        """A job of some of its pairs, with the contexts and responses that they need.

        Args:
            pairs: `[p]`, indices into `pairs`; the part scores them in this order.
        """
        contexts, context_of = np.unique(self.pairs[pairs, 0], return_inverse=True)
        responses, response_of = np.unique(self.pairs[pairs, 1], return_inverse=True)
        given = self.token_ids
        return replace(
            self,
            contexts=tuple(self.contexts[context] for context in contexts),
            responses=tuple(self.responses[response] for response in responses),
            pairs=np.stack([context_of, response_of], axis=1).astype(np.int32),
            token_ids=None if given is None else given[rows_of(self.response_lengths, responses)],
        )


@dataclass(frozen=True, slots=True)
class Missing:
    """Why positions of one pair carry no numbers."""

    pair: int
    """Index into `ScoringJob.pairs`."""
    reason: str
    """A stable upper-case reason."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Float32 scores of response positions; what was not asked for is None."""

    sampled: NDArray[np.float32] | None = None
    """`[N]`: log probs of the response's own tokens."""
    top_k_ids: NDArray[np.int32] | None = None
    """`[N, k]`: the most probable ids, best first; -1 where they are missing."""
    top_k_log_probs: NDArray[np.float32] | None = None
    """`[N, k]`: their log probs."""
    given: NDArray[np.float32] | None = None
    """`[N, n]`: log probs of the given ids."""
    entropy: NDArray[np.float32] | None = None
    """`[N]`: entropy in nats."""
    valid: NDArray[np.bool_] | None = None
    """`[N]`: False where numbers are missing (they are NaN there); None when all are valid."""
    missing: tuple[Missing, ...] = ()
    """Why numbers are missing."""

    def rows(self, start: int, stop: int) -> "Scores":
        """Views of positions `start` to `stop`; `missing` is left empty."""
        return Scores(
            sampled=None if self.sampled is None else self.sampled[start:stop],
            top_k_ids=None if self.top_k_ids is None else self.top_k_ids[start:stop],
            top_k_log_probs=(
                None if self.top_k_log_probs is None else self.top_k_log_probs[start:stop]
            ),
            given=None if self.given is None else self.given[start:stop],
            entropy=None if self.entropy is None else self.entropy[start:stop],
            valid=None if self.valid is None else self.valid[start:stop],
        )


SCORE_ARRAYS = ("sampled", "top_k_ids", "top_k_log_probs", "given", "entropy")
"""The arrays of `Scores` that hold a row for each response token."""


def join_pairs(pairs: Sequence[Scores]) -> Scores:
    """The scores of pairs, which are all of the same outputs, one after another."""
    columns = {
        name: [getattr(pair, name) for pair in pairs]
        for name in SCORE_ARRAYS
        if getattr(pairs[0], name) is not None
    }
    valid = None
    if any(pair.valid is not None for pair in pairs):
        numbers = next(iter(columns.values()))
        valid = np.concatenate(
            [
                np.ones(len(rows), dtype=np.bool_) if pair.valid is None else pair.valid
                for pair, rows in zip(pairs, numbers, strict=True)
            ]
        )
    return Scores(
        **{name: np.concatenate(column) for name, column in columns.items()},
        valid=valid,
        missing=tuple(
            replace(missing, pair=index)
            for index, pair in enumerate(pairs)
            for missing in pair.missing
        ),
    )


@dataclass(frozen=True, slots=True)
class TeacherInfo:
    """What a teacher is, and the limits that jobs must keep."""

    model_id: str
    """The model's name."""
    weights_revision: str
    """Revision of the server's own weights."""
    tokenizer_fingerprint: str
    """SHA-256 over vocabulary and special tokens."""
    vocab_size: int
    """Number of token ids that may occur."""
    max_model_len: int
    """Longest context + response, in tokens."""
    max_top_k: int
    """Largest `Outputs.top_k`."""
    engine: str
    """Engine: `transformers` or `vllm`."""
    engine_version: str
    """Version of the engine."""
    max_job_tokens: int
    """Largest job, in `ScoringJob.tokens_computed`."""
    outputs: tuple[str, ...] = OUTPUT_NAMES
    """Which of `OUTPUT_NAMES` it can give. A teacher that names none gives none."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job cost."""

    tokens_naive: int
    """Tokens that one full forward pass a pair would take."""
    tokens_computed: int
    """Tokens that were computed."""
    engine_seconds: float = 0.0
    """Seconds inside the engine."""
    wait_seconds: float = 0.0
    """Seconds between acceptance and the engine."""
    pairs_cached: int = 0
    """Pairs whose scores were there already: of earlier jobs, or of the same pair in this one."""
    tokens_cached: int = 0
    """Tokens, counted as in `ScoringJob.tokens_computed`, that the engine was spared by that."""


@dataclass(frozen=True)
class ScoringResult:
    """The scores of one job, stamped with what computed them."""

    job_id: str
    """The job's id."""
    pair_lengths: NDArray[np.int64]
    """Response tokens of each pair, `[P]`."""
    scores: Scores
    """Scores of all pairs, one after another."""
    weights_revision: str
    """Revision of the weights behind every score of this job."""
    tokenizer_fingerprint: str
    """Fingerprint of the teacher's tokenizer."""
    model_id: str
    """The teacher's name."""
    engine: str
    """Its engine."""
    engine_version: str
    """Its engine's version."""
    cost: Cost
    """What the job cost."""

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.pair_lengths)

    def pair(self, index: int) -> Scores:
        """The scores of pair `index`, views of `[T]` or `[T, k]` with `T` its response's length."""
        stop = int(self._ends[index])
        return self.scores.rows(stop - int(self.pair_lengths[index]), stop)


def rows_of(lengths: NDArray[np.int64], chosen: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where the rows of chosen blocks lie when blocks of these lengths lie one after another."""
    ends = np.cumsum(lengths)
    return np.concatenate([np.arange(ends[i] - lengths[i], ends[i]) for i in chosen.tolist()])


def pairs_array(pairs: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """Pairs of (context index, response index) as the int32 `[P, 2]` array of a job."""
    return np.array(pairs, dtype=np.int32).reshape(len(pairs), 2)
