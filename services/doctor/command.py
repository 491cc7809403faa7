"""`counterhint doctor`."""

import asyncio
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.markup import escape

from counterhint.certificates import check_client_certificates
from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE, Command
from counterhint.credentials import Credentials
from services.doctor.finding import Finding, State
from services.doctor.machine import look_at_machine
from services.doctor.redis import look_at_redis
from services.doctor.teachers import look_at_teachers

COLOURS: dict[State, str] = {"ok": "green", "note": "dim", "warning": "yellow", "problem": "red"}


class Doctor(Command):
    """Look at this machine, and at Redis and teachers whose addresses are given; say what to do.

    Token and certificates for teachers come from COUNTERHINT_TOKEN_FILE, COUNTERHINT_TLS_CA and
    others, as for training. Each teacher and intake scores one token.

    Exit codes: 0 nothing stands in the way; 1 something will not work.

    example:
      counterhint doctor
      counterhint doctor --redis redis://127.0.0.1:6379/0 --teachers 127.0.0.1:50051 \\
        --teachers 127.0.0.1:50050 --tokenizer models/student --listen 127.0.0.1:8080
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_DOCTOR_")

    redis: str | None = None
    """The queue's Redis: redis://host:port/0, rediss://… or unix:///path."""
    teachers: list[str] = Field([])
    """A teacher's or an intake's address, host:port or unix:///path; repeatable."""
    tokenizer: Path | None = None
    """Folder of the student's tokenizer, to compare with the teachers'."""
    listen: list[str] = Field([])
    """An address that a server is to listen on; repeatable."""
    folder: list[Path] = Field([Path("runs")])
    """A folder for runs or models; repeatable."""
    json_: bool = Field(False, alias="json")
    """Print one JSON object."""

    def run(self) -> int:
        """Looks, and prints what was found as it is found."""
        findings = asyncio.run(self._look())
        counts = Counter(finding.state for finding in findings)
        if self.json_:
            print(json.dumps({"findings": [asdict(one) for one in findings], **counts}))
        else:
            numbers = (_number(counts[state], state) for state in ("problem", "warning"))
            print(f"{', '.join(numbers)}.")
        return EXIT_NEGATIVE if counts["problem"] else EXIT_DONE

    async def _look(self) -> list[Finding]:
        credentials = Credentials.from_environment()
        check_client_certificates(credentials)
        findings: list[Finding] = []

        def add(finding: Finding) -> None:
            findings.append(finding)
            if not self.json_:
                _show(finding)

        for finding in look_at_machine(self.listen, self.folder):
            add(finding)
        if self.redis is not None:
            async for finding in look_at_redis(self.redis):
                add(finding)
        async for finding in look_at_teachers(self.teachers, self.tokenizer, credentials):
            add(finding)
        return findings


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _show(finding: Finding) -> None:
    console = Console(highlight=False, soft_wrap=True)
    state = f"[{COLOURS[finding.state]}]{finding.state:<8}[/]"
    console.print(f"{state} {escape(finding.check)}: {escape(finding.found)}")
    if finding.remedy:
        console.print(f"{'':<8} [bold]→[/] {escape(finding.remedy)}")
