"""A claimed job: what is sent to teachers for it, and what its response is."""

import asyncio
import time
from collections.abc import Sequence
from functools import cached_property

from google.protobuf.message import DecodeError

from counterhint.errors import EngineFailure, InvalidJob, Unavailable
from counterhint.jobs import ScoringJob, ScoringResult, Weights
from counterhint.messages import (
    job_from_message,
    job_to_message,
    result_from_message,
    result_to_message,
    weights_from_message,
)
from counterhint.tensors import TokenIds, decode_sequences
from counterhint.v1 import scoring_pb2
from services.queue.records import Claim
from services.splitting import Part, merge_results, split_by_context
from services.teacher_link import Delivery, TeacherLink

MAX_RESCORES = 2
"""How often parts that do not fit the others are scored again before the job is given back."""


class Assembly:
    """A job on its way, whole or in parts. Parts are sent one after another by `send_next`.

    A job whose delivery failed before travels alone: were it the one that kills teachers, nobody
    else's failures would be counted with it.

    Args:
        claim: the job in our hands.
        max_part_tokens: a larger job is split by context.

    Raises:
        InvalidJob: the payload cannot be read, or is of a job with another id, whose answer
            could not be told to be this one's.
    """

    def __init__(self, claim: Claim, max_part_tokens: int) -> None:
        self._claim = claim
        self._deadline = time.monotonic() + claim.timeout
        self._whole = _request_of(claim)
        self._parts: Sequence[Part] = ()
        """Empty when the job travels whole."""
        if claim.cost > max_part_tokens:
            # A name for each delivery: answers to the one before may still be on their way.
            parts_of = f"{claim.id}/delivery-{claim.attempt}"
            parts = split_by_context(self._job, max_part_tokens, parts_of)
            self._parts = parts if len(parts) > 1 else ()
        self._sent: dict[int, tuple[TeacherLink, Delivery]] = {}
        self._results: dict[int, ScoringResult] = {}
        """By part, in the order in which they came."""

    @cached_property
    def _job(self) -> ScoringJob:
        return job_from_message(self._whole)

    @property
    def next_contexts(self) -> Sequence[TokenIds]:
        """The contexts of what `send_next` will send.

        Raises:
            InvalidJob: they cannot be decoded, or there are none.
        """
        if self._parts:
            return self._parts[len(self._sent)].job.contexts
        return decode_sequences(self._whole.contexts, "contexts") or self._job.contexts

    @property
    def alone(self) -> bool:
        """Whether a teacher must have nothing else meanwhile."""
        return self._claim.failures > 0

    @property
    def weights(self) -> Weights | None:
        """The weights that the job names."""
        named = self._whole.HasField("weights")
        return weights_from_message(self._whole.weights) if named else None

    @property
    def begun(self) -> bool:
        """Whether anything was sent."""
        return bool(self._sent)

    @property
    def wants_more(self) -> bool:
        """Whether there is something left to send, and nothing that was sent has failed."""
        return len(self._sent) < max(1, len(self._parts)) and not any(
            delivery.answer.done() and delivery.answer.exception() is not None
            for _, delivery in self._sent.values()
        )

    def send_next(self, link: TeacherLink) -> None:
        """Sends the job or its next part."""
        self._send(len(self._sent), link)

    def _send(self, number: int, link: TeacherLink) -> None:
        if self._parts:
            part = self._parts[number].job
            request, tokens = job_to_message(part), part.tokens_computed
        else:
            request, tokens = self._whole, self._claim.cost
        delivery = Delivery(request, tokens, self._deadline, alone=self.alone)
        self._sent[number] = link, delivery
        link.send(delivery)

    async def response(self) -> scoring_pb2.ScoreResponse:
        """The job's response once all answers are there; to be asked for when no more is sent.

        When it fails, or is cancelled, so is what is still under way.

        Raises:
            CounterhintError: what ended the job or the first of its parts that failed;
                `Unavailable` when not all of it was sent.
        """
        if self.wants_more:
            self._cancel()
            raise Unavailable(
                f"job {self._claim.id!r} was not sent whole: no teacher had room for it",
                reason="NOT_BEGUN",
            )
        try:
            if self._parts:
                return await self._merged()
            _, delivery = self._sent[0]
            return await delivery.answer
        finally:
            self._cancel()

    def _cancel(self) -> None:
        for link, delivery in self._sent.values():
            if not delivery.answer.done():
                link.cancel(delivery)

    async def _merged(self) -> scoring_pb2.ScoreResponse:
        await self._collect(list(self._sent))
        rescored = 0
        while odd := self._odd_parts():
            if rescored == MAX_RESCORES:
                revisions = sorted({str(_origin(result)) for result in self._results.values()})
                raise EngineFailure(
                    f"in {rescored + 1} tries the parts of job {self._claim.id!r} were never of "
                    f"one model and weights revision (last of {', '.join(revisions)}): see that "
                    "all teachers behind the queue serve the same",
                    reason="MIXED_REVISIONS",
                    details={"job": self._claim.id, "origins": ", ".join(revisions)},
                )
            rescored += 1
            link, _ = self._sent[self._model_part()]
            for number in odd:
                self._send(number, link)
            await self._collect(odd)
        results = [self._results[number] for number in range(len(self._parts))]
        return result_to_message(merge_results(self._job, self._parts, results))

    async def _collect(self, numbers: Sequence[int]) -> None:
        async def collect(number: int) -> None:
            _, delivery = self._sent[number]
            response = await delivery.answer
            self._results.pop(number, None)
            self._results[number] = result_from_message(response, self._parts[number].job)

        await asyncio.gather(*(collect(number) for number in numbers))

    def _model_part(self) -> int:
        """The part that the others must fit: of the weights that were asked for, the latest."""
        wanted = None if self._job.weights is None else self._job.weights.revision
        as_wanted = [n for n, result in self._results.items() if result.weights_revision == wanted]
        return (as_wanted or list(self._results))[-1]

    def _odd_parts(self) -> list[int]:
        origin = _origin(self._results[self._model_part()])
        return [number for number, result in self._results.items() if _origin(result) != origin]


def _origin(result: ScoringResult) -> tuple[str, str, str]:
    """What scores must have in common to be of one response."""
    return result.model_id, result.weights_revision, result.tokenizer_fingerprint


def _request_of(claim: Claim) -> scoring_pb2.ScoreRequest:
    try:
        request = scoring_pb2.ScoreRequest.FromString(claim.payload)
    except DecodeError as error:
        raise _bad_payload(claim, f"no ScoreRequest: {error}") from error
    if request.id != claim.id:
        raise _bad_payload(claim, f"of a job with the id {request.id!r}")
    return request


def _bad_payload(claim: Claim, what: str) -> InvalidJob:
    return InvalidJob(
        f"the payload of job {claim.id!r} is {what}: let only this version's intake write to "
        "the queue, and submit the job again",
        reason="BAD_PAYLOAD",
        details={"job": claim.id},
    )
