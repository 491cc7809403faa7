"""Scores of pairs that were scored before: the same content is not computed twice.

What a pair's scores depend on is its key: the teacher, the weights, the tokenizer, the ids of
context and response, and the ids to score at each position. Which client asks does not matter.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import SCORE_ARRAYS, Outputs, Scores, ScoringJob, TeacherInfo, join_pairs
from teacher_server import metrics
from teacher_server.recent_scores import RecentScores


class ContentCache:
    """A bounded memory of scored pairs, least recently used out first, for one event loop.

    Args:
        max_bytes: what it may hold; 0 remembers nothing, and has every pair computed.
        teacher: whose scores they are.
    """

    def __init__(self, max_bytes: int, teacher: TeacherInfo) -> None:
        self._on = max_bytes > 0
        self._teacher = teacher
        self._recent = RecentScores(max_bytes)
        self._under_way: dict[tuple[bytes, Outputs], asyncio.Future[Scores | None]] = {}
        """What jobs compute now; None when such a job ended without scores to share."""

    @asynccontextmanager
    async def look_up(self, job: ScoringJob) -> AsyncIterator["FoundPairs"]:
        """What is known of a validated job's pairs; the block computes the rest.

        Pairs that another job computes are waited for. When that job fails or is cancelled, its
        failure is its own: one of those that waited computes them. Whoever waits owns nothing that
        others could wait for, so that no two jobs wait for each other.
        """
        if not self._on:
            yield FoundPairs(job, range(len(job.pairs)), {}, 0.0)
            return
        arrived = time.monotonic()
        keys = pair_keys(job, self._teacher)
        known: dict[bytes, Scores] = {}
        while awaited := self._collect(keys, job.outputs, known):
            await asyncio.wait(awaited.values())  # which leaves them alone when it is cancelled
            for key, computing in awaited.items():
                if (scores := computing.result()) is not None:
                    known[key] = scores
        found = FoundPairs(job, keys, known, time.monotonic() - arrived)
        ours = {key: asyncio.get_running_loop().create_future() for key in keys if key not in known}
        self._under_way |= {(key, job.outputs): computing for key, computing in ours.items()}
        computed: Mapping[Any, Scores] = {}
        try:
            yield found
            computed = found.computed
        finally:
            for key, computing in ours.items():
                scores = computed.get(key)
                if scores is not None and scores.valid is None:
                    if (earlier := self._recent.get(key)) is not None:
                        scores = _both(scores, earlier)
                    self._recent.put(key, scores)
                    computing.set_result(scores)
                else:
                    computing.set_result(None)
                del self._under_way[key, job.outputs]
            metrics.CACHE_BYTES.set(self._recent.bytes)

    def _collect(
        self, keys: Sequence[bytes], outputs: Outputs, known: dict[bytes, Scores]
    ) -> dict[bytes, asyncio.Future[Scores | None]]:
        """Adds to `known` what the cache holds; gives what is under way."""
        awaited = {}
        for key in keys:
            if key in known:
                continue
            scores = self._recent.get(key)
            if scores is not None and _covers(scores, outputs):
                known[key] = scores
            elif (computing := self._under_way.get((key, outputs))) is not None:
                awaited[key] = computing
        return awaited


class FoundPairs:
    """A job's pairs: those whose scores are known, and the rest.

    Args:
        job: the job.
        keys: the content of each of its pairs.
        known: scores by content, which may be of more outputs than the job asks for.
        waited: seconds that it took to find them.
    """

    def __init__(
        self,
        job: ScoringJob,
        keys: Sequence[Hashable],
        known: Mapping[Any, Scores],
        waited: float,
    ) -> None:
        self._job = job
        self._keys = keys
        self._known = known
        self.waited = waited
        """Seconds that others were waited for."""
        first: dict[Hashable, int] = {}
        for pair, key in enumerate(keys):
            if key not in known:
                first.setdefault(key, pair)
        self._unknown = tuple(first)
        self.rest: ScoringJob | None = job
        """What is to be computed: every content once; the job itself when that is all of it."""
        if len(first) < len(keys):
            self.rest = job.part(np.array(list(first.values()))) if first else None
        self._rest_scores: Scores | None = None

    @cached_property
    def computed(self) -> Mapping[Any, Scores]:
        """Scores by content of the rest once it was computed, in arrays of their own."""
        if self.rest is None or self._rest_scores is None:
            return {}
        pairs = _split(self._rest_scores, self.rest.pair_lengths)
        return dict(zip(self._unknown, pairs, strict=True))

    @property
    def pairs_cached(self) -> int:
        """Pairs that need not be computed."""
        return len(self._keys) - len(self._unknown)

    @property
    def tokens_cached(self) -> int:
        """Tokens that need not be computed."""
        rest = 0 if self.rest is None else self.rest.tokens_computed
        return self._job.tokens_computed - rest

    def known_scores(self) -> Scores:
        """The job's scores, of a job that has no rest."""
        return self._joined(self._known)

    def with_rest(self, scores: Scores) -> Scores:
        """The job's scores from those of the rest."""
        assert self.rest is not None
        self._rest_scores = scores
        if self.rest is self._job:
            return scores
        return self._joined({**self._known, **self.computed})

    def _joined(self, scores: Mapping[Any, Scores]) -> Scores:
        return join_pairs([_only(scores[key], self._job.outputs) for key in self._keys])


def pair_keys(job: ScoringJob, teacher: TeacherInfo) -> list[bytes]:
    """What the scores of each pair depend on, as 96 bytes: equal only for equal content.

    The engine's precision is no part of it: a cache ends with its process, which has one engine.
    """
    own, named = teacher.weights_revision, job.weights
    scope = (
        *(teacher.model_id, teacher.engine, teacher.engine_version, job.tokenizer_fingerprint),
        own if named is None else (named.sha256.lower(), named.revision),
        None if job.token_ids is None else job.token_ids.shape[1],
    )
    scoped = hashlib.sha256(repr(scope).encode()).digest()
    contexts = [_digest(context) for context in job.contexts]
    responses = []
    stop = 0
    for response in job.responses:
        start, stop = stop, stop + len(response)
        given = () if job.token_ids is None else (job.token_ids[start:stop],)
        responses.append(_digest(response, *given))
    return [scoped + contexts[context] + responses[one] for context, one in job.pairs.tolist()]


def _digest(*ids: NDArray[np.int32]) -> bytes:
    digest = hashlib.sha256()
    for part in ids:
        digest.update(np.ascontiguousarray(part).data)
    return digest.digest()


def _covers(scores: Scores, outputs: Outputs) -> bool:
    """Whether the scores of a pair hold all that is asked for; given ids are in the pair's key."""
    ids = scores.top_k_ids
    return (
        (not outputs.sampled or scores.sampled is not None)
        and (not outputs.entropy or scores.entropy is not None)
        and (not outputs.given or scores.given is not None)
        and (not outputs.top_k or (ids is not None and ids.shape[1] >= outputs.top_k))
    )


def _both(scores: Scores, earlier: Scores) -> Scores:
    """What either holds of one pair: it was scored again for an output that was not there."""

    def columns(ids: NDArray[np.int32] | None) -> int:
        return 0 if ids is None else ids.shape[1]

    more = scores if columns(scores.top_k_ids) >= columns(earlier.top_k_ids) else earlier
    return replace(
        scores,
        sampled=earlier.sampled if scores.sampled is None else scores.sampled,
        given=earlier.given if scores.given is None else scores.given,
        entropy=earlier.entropy if scores.entropy is None else scores.entropy,
        top_k_ids=more.top_k_ids,
        top_k_log_probs=more.top_k_log_probs,
    )


def _only(scores: Scores, outputs: Outputs) -> Scores:
    """The scores without what is not asked for."""

    def best(array: NDArray[Any] | None) -> NDArray[Any] | None:
        return array[:, : outputs.top_k] if array is not None and outputs.top_k else None

    return replace(
        scores,
        sampled=scores.sampled if outputs.sampled else None,
        top_k_ids=best(scores.top_k_ids),
        top_k_log_probs=best(scores.top_k_log_probs),
        given=scores.given if outputs.given else None,
        entropy=scores.entropy if outputs.entropy else None,
    )


def _split(scores: Scores, lengths: NDArray[np.int64]) -> list[Scores]:
    """Each pair's scores in arrays of their own; `valid` where some are missing."""
    split = []
    stop = 0
    for pair, length in enumerate(lengths.tolist()):
        start, stop = stop, stop + length
        rows = scores.rows(start, stop)
        arrays = {name: getattr(rows, name) for name in SCORE_ARRAYS}
        owned = {name: array.copy() for name, array in arrays.items() if array is not None}
        partial = rows.valid is not None and not rows.valid.all()
        split.append(
            Scores(
                **owned,
                valid=rows.valid if partial else None,
                missing=tuple(missing for missing in scores.missing if missing.pair == pair),
            )
        )
    return split
