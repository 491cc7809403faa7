"""Logs of every process: to standard error, as text or as one JSON object a line.

A line that is written while a job is worked for carries the job's run, id and request id. Token ids
and texts are never logged.

Needs the extra `cli`.
"""

import logging
import time
from typing import Any, Literal

from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource
from pythonjsonlogger.json import JsonFormatter

from counterhint.command_line import Command
from counterhint.errors import (
    ENGINE_DEAD,
    ENGINE_HANGING,
    CounterhintError,
    InvalidJob,
    JobConflict,
    Overloaded,
    PermissionDenied,
    TokenizerMismatch,
    Unauthenticated,
    Unavailable,
)
from counterhint.jobs import Cost
from counterhint.request_context import current
from counterhint.tracing import start_tracing

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

REFUSALS_AT_ONCE, REFUSAL_SECONDS = 20, 10.0
"""Refused calls and jobs have so many lines in so much time: strangers must not fill a disk."""
REFUSED = (
    InvalidJob,
    JobConflict,
    Overloaded,
    PermissionDenied,
    TokenizerMismatch,
    Unauthenticated,
    Unavailable,
)
"""The errors of jobs that were not accepted, but for `Unavailable` when the engine had them."""


class LoggedCommand(Command):
    """The flags of a command that writes logs.

    `COUNTERHINT_LOG_FORMAT` and `COUNTERHINT_LOG_LEVEL` hold for every such command; a command's
    own variable goes over them.
    """

    log_format: LogFormat = "text"
    """text for people, or json: one object a line (or COUNTERHINT_LOG_FORMAT)."""
    log_level: LogLevel = "info"
    """The least that is logged (or COUNTERHINT_LOG_LEVEL)."""

    def start_logs(self, process: str) -> None:
        """Logs of this process from now on as the flags say, and spans as the environment says.

        Args:
            process: its part, in every JSON line: `teacher`.

        Raises:
            InputError: spans are asked for and cannot be sent.
        """
        handler = logging.StreamHandler()
        handler.setFormatter(
            json_formatter(process) if self.log_format == "json" else TextFormatter()
        )
        handler.addFilter(add_job)
        logging.basicConfig(level=self.log_level.upper(), handlers=[handler])
        start_tracing(f"counterhint-{process}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags > the command's environment > that of all commands > file."""
        flags, environment, *rest = super().settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )
        return flags, environment, _SharedEnvironment(settings_cls), *rest


class _SharedEnvironment(EnvSettingsSource):
    """`COUNTERHINT_LOG_FORMAT` and `COUNTERHINT_LOG_LEVEL`."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, env_prefix="COUNTERHINT_")

    def __call__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in super().__call__().items()
            if name in LoggedCommand.__annotations__
        }


class TextFormatter(logging.Formatter):
    """`time level logger: message [job request id]`; what is in brackets where a job is worked for.

    Control characters of names that clients choose are written as escapes, so that nobody adds a
    line of their own.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Without the exception, which the base class puts on lines of its own."""
        line = super().formatMessage(record)
        ids = (getattr(record, name, "") for name in ("job", "request_id"))
        if of_job := " ".join(filter(None, ids)):
            line = f"{line} [{of_job}]"
        return line if line.isprintable() else _escaped(line)


def json_formatter(process: str) -> JsonFormatter:
    """Lines with `time` (UTC, ISO 8601), `level`, `logger`, `message`, `process`, and what the
    record has besides: `run`, `job`, `request_id`, and figures."""
    return JsonFormatter(
        "{levelname}{name}{message}",
        style="{",
        rename_fields={"levelname": "level", "name": "logger"},
        static_fields={"process": process},
        timestamp="time",
    )


def add_job(record: logging.LogRecord) -> bool:
    """A filter that keeps every record and writes onto it which job it is about."""
    job = current()
    facts = {"run": job.run_id, "job": job.job_id, "request_id": job.trace.request_id}
    for name, value in facts.items():
        if value and not hasattr(record, name):
            setattr(record, name, value)
    return True


class Throttle(logging.Filter):
    """Lets so many records through a period; the first one of the next tells how many it left out.

    Args:
        most: records a period.
        seconds: its length.
    """

    def __init__(self, most: int, seconds: float) -> None:
        super().__init__()
        self._most, self._seconds = most, seconds
        self._period, self._seen = -1, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is written."""
        period = int(time.monotonic() // self._seconds)
        if period != self._period:
            left_out = max(0, self._seen - self._most)
            self._period, self._seen = period, 0
            if left_out:
                record.msg = f"{record.getMessage()} ({left_out} others before it were left out)"
                record.args = ()
        self._seen += 1
        return self._seen <= self._most


refusals = logging.getLogger("counterhint.refusals")
"""Where servers log calls and jobs that they did not take, at a bounded rate."""
refusals.addFilter(Throttle(REFUSALS_AT_ONCE, REFUSAL_SECONDS))


def log_scored(log: logging.Logger, cost: Cost) -> None:
    """The one line of a scored job, at its end."""
    log.info(
        "job scored: %d tokens naive, %d computed, %d cached; waited %.3f s, engine %.3f s",
        cost.tokens_naive,
        cost.tokens_computed,
        cost.tokens_cached,
        cost.wait_seconds,
        cost.engine_seconds,
        extra={
            "outcome": "OK",
            "tokens_naive": cost.tokens_naive,
            "tokens_computed": cost.tokens_computed,
            "tokens_cached": cost.tokens_cached,
            "wait_seconds": cost.wait_seconds,
            "engine_seconds": cost.engine_seconds,
        },
    )


def log_failed(log: logging.Logger, error: CounterhintError) -> None:
    """The one line of a job that ended with an error; of refused ones only so many."""
    if isinstance(error, REFUSED) and error.reason not in (ENGINE_DEAD, ENGINE_HANGING):
        log = refusals
    log.info("job ended: %s", error.reason, extra={"outcome": error.reason})


def _escaped(line: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in line
    )
