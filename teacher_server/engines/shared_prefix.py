"""Group scoring: every context computed once, its key-value cache shared by its responses.

Contexts are padded on the left and responses on the right, so that a context and its response are
contiguous: positions and sliding windows are those of the unpadded sequence. Only `|y| - 1` tokens
of a response are fed: the context's last hidden state predicts the first one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from counterhint.errors import InputError
from counterhint.jobs import Scores, ScoringJob
from counterhint.tensors import TokenIds
from teacher_server.engines.batches import ContextBatch, ResponseBatch, plan_batches
from teacher_server.engines.head import Head

SHAREABLE = (DynamicLayer, DynamicSlidingWindowLayer)
"""Cache layers that hold one row of keys and values a sequence, and so can be shared."""


class SharedLayer(CacheLayerMixin):
    """One layer's context keys and values `[C, heads, h, d]`, read by `P` response rows.

    Keys are expanded while the layer computes and dropped after it, so that one layer's expansion
    exists at a time instead of all layers'.

    Args:
        contexts: the layer that the context pass left behind.
        pairs_of_context: how many consecutive rows read each context, `C` numbers.
    """

    def __init__(self, contexts: DynamicLayer, pairs_of_context: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self.is_sliding = contexts.is_sliding
        self._contexts = contexts
        self._pairs_of_context = pairs_of_context

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the contexts are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Context and response keys and values, `[P, heads, h + T, d]` each."""
        return (
            self._expand(self._contexts.keys, key_states),
            self._expand(self._contexts.values, value_states),
        )

    def _expand(self, context_states: Tensor | None, states: Tensor) -> Tensor:
        assert context_states is not None  # the context pass has filled it
        rows, heads, width, size = states.shape
        cached = context_states.shape[-2]
        expanded = states.new_empty(rows, heads, cached + width, size)
        expanded[:, :, cached:] = states
        start = 0
        for context, count in enumerate(self._pairs_of_context):
            expanded[start : start + count, :, :cached] = context_states[context]
            start += count
        return expanded

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys, for the attention mask."""
        sizes: tuple[int, int] = self._contexts.get_mask_sizes(query_length)
        return sizes

    def get_seq_length(self) -> int:
        """Context tokens, padding included."""
        return int(self._contexts.get_seq_length())

    def get_max_length(self) -> int:
        """As in the contexts' layer."""
        return int(self._contexts.get_max_length())


def check_shareable(model: PreTrainedModel) -> None:
    """Refuses a model whose cache cannot be shared between sequences.

    Raises:
        InputError: naming the model's class and its kind of cache.
    """
    layers = DynamicCache(config=model.config).layers
    kinds = {type(layer) for layer in layers} - set(SHAREABLE)
    if kinds:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(
            f"{type(model).__name__} keeps its past in {names}, which cannot be shared between "
            "responses: use a model whose layers are all attention (full or sliding window)"
        )


class GroupScorer:
    """Scores jobs with one model.

    Args:
        model: a causal language model in evaluation mode.
        max_batch_tokens: most tokens of a batch, padding and cached ones included.
    """

    def __init__(self, model: PreTrainedModel, max_batch_tokens: int) -> None:
        self.model = model
        self.head = Head(model)
        self._max_batch_tokens = max_batch_tokens

    @torch.inference_mode()
    def score(self, job: ScoringJob, check: Callable[[], None] = lambda: None) -> Scores:
        """The scores of a job's pairs.

        Args:
            job: the job, already validated against this model.
            check: called before every batch; what it raises ends the work.
        """
        output = _ScoreArrays(job, self.model.device)
        for batch in plan_batches(job, self._max_batch_tokens):
            check()
            self._score_context_batch(job, batch, output, check)
        return output.scores()

    def _score_context_batch(
        self,
        job: ScoringJob,
        batch: ContextBatch,
        output: "_ScoreArrays",
        check: Callable[[], None],
    ) -> None:
        device = self.model.device
        ids, mask = _padded([job.contexts[index] for index in batch.contexts], left=True)
        context_ids, context_mask = ids.to(device), mask.to(device)
        lengths = context_mask.sum(-1)
        cache = DynamicCache(config=self.model.config)
        last_hidden = self._hidden(
            context_ids, context_mask, (context_mask.cumsum(-1) - 1).clamp(min=0), cache
        )[:, -1]
        for responses in batch.responses:
            check()
            rows = torch.from_numpy(responses.rows).to(device)
            hidden, positions = last_hidden[rows], output.starts[responses.pairs]
            fed = [job.responses[job.pairs[pair, 1]][:-1] for pair in responses.pairs]
            if any(len(row) for row in fed):
                ids, mask = _padded(fed, left=False)
                response_mask = mask.to(device)
                later = self._hidden(
                    ids.to(device),
                    torch.cat([context_mask[rows], response_mask], dim=-1),
                    lengths[rows, None] + torch.arange(ids.shape[1], device=device),
                    _shared(cache, responses, len(batch.contexts)),
                )
                hidden = torch.cat([hidden, later[response_mask]])
                after_first = positions[:, None] + 1 + np.arange(ids.shape[1])
                positions = np.concatenate([positions, after_first[mask.numpy()]])
            output.fill(positions, hidden, self.head)

    def _hidden(self, ids: Tensor, mask: Tensor, position_ids: Tensor, cache: Cache) -> Tensor:
        """Hidden states `[B, T, H]` after the last norm."""
        hidden: Tensor = self.model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden


class _ScoreArrays:
    """Scores of a job, filled batch by batch; positions are rows of `Scores`."""

    def __init__(self, job: ScoringJob, device: torch.device) -> None:
        self._outputs = job.outputs
        self._device = device
        rows = int(job.pair_lengths.sum())
        self.starts = np.cumsum(job.pair_lengths) - job.pair_lengths
        """`[P]`: the position of each pair's first response token."""
        self._sampled_ids = np.concatenate([job.responses[index] for index in job.pairs[:, 1]])
        self._given_ids: TokenIds | None = None
        if job.token_ids is not None:
            of_response = np.split(job.token_ids, np.cumsum(job.response_lengths)[:-1])
            self._given_ids = np.concatenate([of_response[index] for index in job.pairs[:, 1]])
        top_k = job.outputs.top_k
        self._sampled = _missing(rows)
        self._top_k_ids = np.full((rows, top_k), -1, dtype=np.int32)
        self._top_k_log_probs = _missing(rows, top_k)
        self._given = _missing(rows, 0 if self._given_ids is None else self._given_ids.shape[1])
        self._entropy = _missing(rows)

    def fill(self, positions: NDArray[np.int64], hidden: Tensor, head: Head) -> None:
        """Scores the positions `[n]` that the hidden states `[n, H]` predict."""
        given = None if self._given_ids is None else self._given_ids[positions]
        scores = head.score(
            hidden,
            self._ids(self._sampled_ids[positions]),
            given=None if given is None else self._ids(given),
            top_k=self._outputs.top_k,
            entropy=self._outputs.entropy,
        )
        self._sampled[positions] = scores.sampled.cpu().numpy()
        if scores.top_k_ids is not None and scores.top_k_log_probs is not None:
            self._top_k_ids[positions] = scores.top_k_ids.cpu().numpy()
            self._top_k_log_probs[positions] = scores.top_k_log_probs.cpu().numpy()
        if scores.given is not None:
            self._given[positions] = scores.given.cpu().numpy()
        if scores.entropy is not None:
            self._entropy[positions] = scores.entropy.cpu().numpy()

    def scores(self) -> Scores:
        """What the job asked for."""
        asked = self._outputs
        return Scores(
            sampled=self._sampled if asked.sampled else None,
            top_k_ids=self._top_k_ids if asked.top_k else None,
            top_k_log_probs=self._top_k_log_probs if asked.top_k else None,
            given=self._given if asked.given else None,
            entropy=self._entropy if asked.entropy else None,
        )

    def _ids(self, ids: TokenIds) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self._device)


def _missing(*shape: int) -> NDArray[np.float32]:
    """NaN: a position that no batch fills would be refused as not finite."""
    return np.full(shape, np.nan, dtype=np.float32)


def _shared(cache: DynamicCache, responses: ResponseBatch, contexts: int) -> Cache:
    counts = np.bincount(responses.rows, minlength=contexts).tolist()
    layers = [layer for layer in cache.layers if isinstance(layer, SHAREABLE)]
    return Cache(layers=[SharedLayer(layer, counts) for layer in layers])


def _padded(sequences: Sequence[TokenIds], left: bool) -> tuple[Tensor, Tensor]:
    """Ids `[B, T]` and mask `[B, T]` (True where a token stands) of sequences, padded with id 0."""
    lengths = np.array([len(sequence) for sequence in sequences])
    columns = np.arange(lengths.max())
    padding = (lengths.max() - lengths)[:, None]
    mask = columns >= padding if left else columns < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate(sequences)
    return torch.from_numpy(ids), torch.from_numpy(mask)
