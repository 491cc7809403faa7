"""Log lines as text and as JSON, the flags that choose them, and the bound on refusals."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterhint import logs
from counterhint.command_line import EXIT_BAD_INPUT, run_command
from counterhint.errors import ENGINE_DEAD, EngineFailure, InvalidJob, Unavailable
from counterhint.jobs import Cost
from counterhint.logs import LoggedCommand, TextFormatter, Throttle, add_job, json_formatter
from counterhint.request_context import TraceContext, working_for

TRACE = TraceContext("request-1")


class Writer:
    """A logger of its own, and what it has written."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._written = io.StringIO()
        handler = logging.StreamHandler(self._written)
        handler.setFormatter(formatter)
        handler.addFilter(add_job)
        self.log = logging.Logger("part.module")
        self.log.addHandler(handler)

    @property
    def text(self) -> str:
        return self._written.getvalue()


@pytest.fixture
def as_json() -> Writer:
    return Writer(json_formatter("teacher"))


@pytest.fixture
def as_text() -> Writer:
    return Writer(TextFormatter())


def test_a_line_of_a_job_says_whose_it_is(as_json: Writer, as_text: Writer) -> None:
    with working_for("maths", "job-1", TRACE):
        as_json.log.info("%d of %d", 1, 2)
        as_text.log.info("%d of %d", 1, 2)
    as_text.log.info("outside")
    line = json.loads(as_json.text)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "part.module",
        "message": "1 of 2",
        "process": "teacher",
        "run": "maths",
        "job": "job-1",
        "request_id": "request-1",
    }
    inside, outside = as_text.text.splitlines()
    assert inside.endswith("INFO part.module: 1 of 2 [job-1 request-1]")
    assert outside.endswith("INFO part.module: outside")


def test_a_name_adds_no_line_of_its_own(as_json: Writer, as_text: Writer) -> None:
    name = "run\n2026-01-01 ERROR forged\x1b[2J\u2028é"
    for writer in (as_json, as_text):
        with working_for(name, name, TRACE):
            writer.log.warning("run %s", name)
        assert len(writer.text.splitlines()) == 1
    assert json.loads(as_json.text)["run"] == name
    assert "forged\\x1b[2J\\u2028é" in as_text.text


def test_a_scored_job_is_one_line_with_its_figures(as_json: Writer) -> None:
    logs.log_scored(as_json.log, Cost(100, 40, 0.5, 0.25, 3, 10))
    line = json.loads(as_json.text)
    assert (line["outcome"], line["level"]) == ("OK", "INFO")
    assert (line["tokens_naive"], line["tokens_computed"], line["tokens_cached"]) == (100, 40, 10)
    assert (line["wait_seconds"], line["engine_seconds"]) == (0.25, 0.5)


@pytest.fixture
def refusals(as_json: Writer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """What is written to the logger of refusals, whose bound begins anew."""
    monkeypatch.setattr(logs, "refusals", as_json.log)
    as_json.log.addFilter(Throttle(logs.REFUSALS_AT_ONCE, 3600.0))
    return as_json


def test_refused_jobs_share_a_few_lines_and_accepted_ones_have_one_each(
    refusals: Writer, as_text: Writer
) -> None:
    for _ in range(1000):
        logs.log_failed(as_text.log, InvalidJob("no", reason="NO_PAIR"))
        logs.log_failed(as_text.log, Unavailable("no", reason="NO_TEACHER"))
    assert 0 < len(refusals.text.splitlines()) <= 2 * logs.REFUSALS_AT_ONCE
    assert as_text.text == ""
    for _ in range(50):
        logs.log_failed(as_text.log, EngineFailure("no", reason="NOT_FINITE"))
        logs.log_failed(as_text.log, Unavailable("no", reason=ENGINE_DEAD))
    assert len(as_text.text.splitlines()) == 100


def test_what_was_left_out_is_told_in_the_next_period(
    as_text: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    as_text.log.addFilter(Throttle(2, 10.0))
    for _ in range(5):
        as_text.log.info("refused %s", "x")
    now = 1010.0
    as_text.log.info("refused %s", "x")
    as_text.log.info("refused %s", "x")
    lines = as_text.text.splitlines()
    assert len(lines) == 4
    assert lines[2].endswith("refused x (3 others before it were left out)")
    assert lines[3].endswith("refused x")


class Show(LoggedCommand):
    """Prints the flags."""

    def run(self) -> int:
        print(self.log_format, self.log_level)
        return 0


@pytest.mark.parametrize(
    ("environment", "arguments", "shown"),
    [
        ({}, [], "text info"),
        ({"COUNTERHINT_LOG_FORMAT": "json", "COUNTERHINT_LOG_LEVEL": "error"}, [], "json error"),
        ({"COUNTERHINT_LOG_FORMAT": "json"}, ["--log-format", "text"], "text info"),
        ({"COUNTERHINT_LOG_LEVEL": "error", "LOG_LEVEL": "debug"}, ["--config"], "json error"),
    ],
)
def test_flags_go_over_the_environment_and_that_over_a_file(
    environment: dict[str, str],
    arguments: list[str],
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(Show.model_config, "env_prefix", "COUNTERHINT_SHOW_")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if arguments == ["--config"]:
        (tmp_path / "show.yaml").write_text("log_format: json\nlog_level: warning\n")
        arguments = ["--config", str(tmp_path / "show.yaml")]
    assert run_command(Show, "show", arguments) == 0
    assert capsys.readouterr().out == f"{shown}\n"


def test_an_unknown_format_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COUNTERHINT_LOG_FORMAT", "xml")
    assert run_command(Show, "show", []) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "--log-format" in said
    assert "'xml'" in said
