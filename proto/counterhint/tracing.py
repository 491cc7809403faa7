"""Spans to an OpenTelemetry collector, when the standard environment names one.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) switches them on, over HTTP
with protobuf; `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and the SDK's other variables apply.
Otherwise nothing is imported, and a span is an object without content. A process that does not
trace hands the `traceparent` on that it was given.

Needs the extra `tracing` when it is on.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from counterhint.errors import CounterhintError, InputError
from counterhint.request_context import current, within_span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Tracer
    from opentelemetry.trace import Span as OtelSpan

Attributes = Mapping[str, str | int | float]

_tracer: "Tracer | None" = None


def start_tracing(process: str) -> None:
    """Sends this process's spans from now on, if the environment says where to.

    Args:
        process: what it is called where `OTEL_SERVICE_NAME` does not say: `counterhint-teacher`.

    Raises:
        InputError: the extra is not installed, or the environment asks for another protocol.
    """
    global _tracer
    named = [name for name in _ENDPOINTS if os.environ.get(name)]
    if not named or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    for name in _PROTOCOLS:
        if (protocol := os.environ.get(name, _PROTOCOL)) != _PROTOCOL:
            raise InputError(f"{name} is {protocol!r}: spans are sent by {_PROTOCOL}; set that")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InputError(
            f"{named[0]} is set, but {error.name} is not installed: pip install "
            "'counterhint[tracing]', or unset it"
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME") or process
    # Its own provider, not the global one: that belongs to whoever embeds this, or to vLLM.
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("counterhint")  # type: ignore[assignment]


class Span:
    """Work for the current job; a child of the span that asks for it. Ends by `end`.

    Args:
        name: what is done.
        attributes: facts about it; never token ids or texts.
        began: when, in nanoseconds since 1970; None for now.
    """

    def __init__(self, name: str, attributes: Attributes, began: int | None = None) -> None:
        job = current()
        self.traceparent = job.trace.traceparent
        """Its own, or that of the asking span when nothing is traced here."""
        self._span: OtelSpan | None = None
        if _tracer is None:
            return
        from opentelemetry.trace import format_span_id, format_trace_id

        facts = {"run": job.run_id, "job": job.job_id, "request_id": job.trace.request_id}
        self._span = _tracer.start_span(
            name,
            _parent(self.traceparent),
            attributes={key: value for key, value in facts.items() if value} | dict(attributes),
            start_time=began,
        )
        own = self._span.get_span_context()
        self.traceparent = (
            f"00-{format_trace_id(own.trace_id)}-{format_span_id(own.span_id)}"
            f"-{own.trace_flags:02x}"
        )

    def note(self, attributes: Attributes) -> None:
        """Adds facts."""
        if self._span is not None:
            self._span.set_attributes(dict(attributes))

    def end(self, error: CounterhintError | None = None) -> None:
        """Ends it, as failed with this error's reason."""
        if self._span is None:
            return
        if error is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("reason", error.reason)
            self._span.set_status(StatusCode.ERROR, error.reason)
        self._span.end()


def span(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
    """A span over a block, whose own spans and calls are its children."""
    opened = Span(name, attributes or {})
    return nullcontext(opened) if _tracer is None else _over_block(opened)


@contextmanager
def _over_block(opened: Span) -> Iterator[Span]:
    failure = None
    try:
        with within_span(opened.traceparent):
            yield opened
    except CounterhintError as error:
        failure = error
        raise
    finally:
        opened.end(failure)


def past_span(name: str, seconds: float, attributes: Attributes) -> None:
    """A span of something that ends now and took so many seconds."""
    if _tracer is not None:
        Span(name, attributes, began=time.time_ns() - round(seconds * 1e9)).end()


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


def _parent(traceparent: str) -> Any:
    """The context of a span whose parent is this one; of a new trace when it is empty."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
