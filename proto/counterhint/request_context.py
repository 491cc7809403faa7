"""What follows a job through logs and traces, from its client to the engine.

A request id (made by the client, or by the first server that misses one) and, while somebody
traces, a W3C `traceparent`. Beside the job, never in it: a job's content is what makes it the same
job when it is sent again. Within a process, whatever runs for a job finds both by `current`.
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from counterhint.credentials import Metadata
from counterhint.v1 import scoring_pb2

REQUEST_ID, TRACEPARENT = "x-request-id", "traceparent"
"""The keys in a call's metadata."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,128}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A request id, and the span that asks."""

    request_id: str = ""
    """Empty where nobody gave one."""
    traceparent: str = ""
    """W3C Trace Context, level 1; empty when nothing is traced."""

    def to_message(self) -> scoring_pb2.TraceContext:
        """As a stream's requests carry it."""
        return scoring_pb2.TraceContext(request_id=self.request_id, traceparent=self.traceparent)

    def to_metadata(self) -> Metadata:
        """As a call's metadata carry it."""
        pairs = ((REQUEST_ID, self.request_id), (TRACEPARENT, self.traceparent))
        return tuple((key, value) for key, value in pairs if value)


@dataclass(frozen=True, slots=True)
class JobContext:
    """The job that is worked for."""

    run_id: str = ""
    job_id: str = ""
    trace: TraceContext = field(default_factory=TraceContext)


_NOBODY = JobContext()
_current: ContextVar[JobContext] = ContextVar("job_context", default=_NOBODY)


def current() -> JobContext:
    """The job that the running task works for; empty fields outside any."""
    return _current.get()


@contextmanager
def working_for(run_id: str, job_id: str, trace: TraceContext) -> Iterator[None]:
    """Within it, and in tasks that are made in it, `current` is this job."""
    token = _current.set(JobContext(run_id, job_id, trace))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def within_span(traceparent: str) -> Iterator[None]:
    """Within it, this span is what asks for the current job."""
    before = _current.get()
    token = _current.set(replace(before, trace=replace(before.trace, traceparent=traceparent)))
    try:
        yield
    finally:
        _current.reset(token)


def new_request_id() -> str:
    """16 random hexadecimal digits."""
    return secrets.token_hex(8)


def accept(request_id: str, traceparent: str) -> TraceContext:
    """What a server goes on with: what it was given, as far as that is well-formed.

    An unusable request id is replaced by a new one, so that no client writes what it likes into
    logs; an unusable `traceparent` is left out, as its standard says.
    """
    return TraceContext(
        request_id if _REQUEST_ID.fullmatch(request_id) else new_request_id(),
        traceparent if _TRACEPARENT.fullmatch(traceparent) else "",
    )


def accept_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> TraceContext:
    """`accept` of a call's metadata."""
    given = {key: str(value) for key, value in metadata or () if key in (REQUEST_ID, TRACEPARENT)}
    return accept(given.get(REQUEST_ID, ""), given.get(TRACEPARENT, ""))


def accept_message(message: scoring_pb2.TraceContext) -> TraceContext:
    """`accept` of what a stream's request carries."""
    return accept(message.request_id, message.traceparent)
