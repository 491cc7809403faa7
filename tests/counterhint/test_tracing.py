"""Spans: none without the environment, and what cannot be sent is refused at the start."""

import subprocess
import sys

import pytest

from counterhint import tracing
from counterhint.errors import InputError
from counterhint.request_context import TraceContext, current, working_for

PARENT = f"00-{'1' * 32}-{'2' * 16}-01"


def test_without_an_endpoint_nothing_is_imported() -> None:
    """But by redis-py, which looks whether it is installed."""
    program = """
import sys
import counterhint, services.dispatcher, services.intake, student_trainer.cli
import teacher_server.service
from counterhint.tracing import past_span, span, start_tracing

start_tracing("test")
with span("one", {"tokens": 3}) as one:
    one.note({"tokens": 4})
past_span("two", 1.0, {})
found = [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
assert not found, found
"""
    environment = {"PATH": "", "OTEL_SERVICE_NAME": "test"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=240)


def test_a_process_that_does_not_trace_hands_the_parent_on() -> None:
    with (
        working_for("run", "job", TraceContext("one", PARENT)),
        tracing.span("anything") as opened,
    ):
        assert opened.traceparent == current().trace.traceparent == PARENT


def test_errors_pass_through_a_span() -> None:
    with pytest.raises(ZeroDivisionError), tracing.span("anything"):
        raise ZeroDivisionError


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(InputError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        tracing.start_tracing("test")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InputError, match=r"pip install 'counterhint\[tracing\]'"):
        tracing.start_tracing("test")


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing.start_tracing("test")
    assert tracing._tracer is None
