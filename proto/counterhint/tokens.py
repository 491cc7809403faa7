"""The tokens that a server accepts, and what each may do, in one JSON file.

The file holds SHA-256 digests only: whoever reads it cannot use it. A run has one grant (weight,
priority ceiling, quota) and any number of tokens, so that one can be replaced without a gap.

Needs the extra `cli`.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from counterhint.credentials import read_file
from counterhint.errors import InputError, PermissionDenied

log = logging.getLogger(__name__)

TOKEN_PREFIX = "chint_"
"""What every token begins with, so that scanners for leaked secrets know it."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,99}$")]
Digests = dict[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")], datetime]
"""SHA-256 of each token, and when it was made."""


class Grant(BaseModel):
    """What a run may take of the queue, and the tokens that speak for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(1.0, ge=0.001, le=1000)
    """Its share of the tokens, compared with other runs' weights."""
    max_priority: int = Field(3, ge=0, le=3)
    """The highest priority that its jobs may have."""
    max_jobs: int | None = Field(None, ge=0)
    """Its unfinished jobs; None for the queue's own bound."""
    max_bytes: int | None = Field(None, ge=0)
    """Payload bytes of its unfinished jobs; None for the queue's own bound."""
    tokens: Digests = {}
    """Those that speak for the run."""


class TokenTable(BaseModel):
    """The content of a token file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: dict[Name, Grant] = {}
    """By the run's name."""
    operators: dict[Name, Digests] = {}
    """Tokens that may act for every run, by who has them: dispatchers and tools."""


@dataclass(frozen=True)
class Caller:
    """Who makes a call."""

    run: str | None
    """The run whose token it has; None for an operator, or where no tokens are asked for."""
    grant: Grant | None
    """What that run may take."""

    def speaks_for(self, run_id: str) -> bool:
        """Whether a run's jobs are the caller's; every run's are an operator's."""
        return self.run is None or run_id == self.run or run_id.startswith(f"{self.run}-")

    def check_run(self, run_id: str) -> None:
        """Refuses what is another run's: a job, or its figures.

        A run's jobs bear its name, alone or with `-` and more: the training run `maths-1f9c03ab`
        is the run `maths`.

        Raises:
            PermissionDenied: it is another run's.
        """
        if self.speaks_for(run_id):
            return
        raise PermissionDenied(
            f"the token is for the run {self.run!r}, but this is of the run {run_id!r}: use the "
            f"other token; the run of a new job may be {self.run!r} or begin with '{self.run}-'",
            reason="OTHER_RUN",
            details={"token": self.run, "job": run_id},
        )

    def own_id(self, job_id: str) -> str:
        """The job's id where jobs of all runs meet: below the run's name, which holds no `/`."""
        return job_id if self.run is None else f"{self.run}/{job_id}"


ANYONE = Caller(None, None)
"""Every caller of a server that asks for no tokens."""


class TokenFile:
    """A token file as a server uses it: read again when it has changed.

    A file that becomes unreadable leaves what was read before in force, and the log says so.

    Raises:
        InputError: the file cannot be used at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _signature(path)
        self._callers = _callers(read_table(path))

    def caller(self, token: str) -> Caller | None:
        """Whose token it is; None when it is nobody's. Takes as long for every token."""
        self._reload()
        digest = _digest(token)
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _reload(self) -> None:
        signature = _signature(self._path)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._callers = _callers(read_table(self._path))
        except InputError as error:
            log.error("%s; the tokens read before stay in force", error)
        else:
            log.info("--tokens %s: read again, %d tokens", self._path, len(self._callers))


def read_table(path: Path) -> TokenTable:
    """The content of a token file.

    Raises:
        InputError: it cannot be read, or is none.
    """
    content = read_file(path, "--tokens")
    try:
        return TokenTable.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(
            f"--tokens {path} is no token file: {where}: {first['msg']}; make one with "
            "`counterhint tokens new`"
        ) from error


def new_token() -> tuple[str, str]:
    """A token of 256 random bits, and its digest."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    return token, _digest(token)


def now() -> datetime:
    """The time to write beside a new token, in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def changing(path: Path) -> Iterator[TokenTable]:
    """The table for a change that `write_table` ends; nobody else changes it meanwhile.

    Raises:
        InputError: the file is no token file, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise InputError(f"--file {path}: the folder {path.parent} does not exist")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield read_table(path) if path.exists() else TokenTable()
    finally:
        os.close(folder)


def write_table(path: Path, table: TokenTable) -> None:
    """Replaces a token file at once, readable by its owner only."""
    with tempfile.NamedTemporaryFile(  # mode 0600
        "w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8"
    ) as file:
        file.write(table.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _callers(table: TokenTable) -> list[tuple[str, Caller]]:
    operators = [(digest, ANYONE) for digests in table.operators.values() for digest in digests]
    runs = [
        (digest, Caller(name, grant))
        for name, grant in table.runs.items()
        for digest in grant.tokens
    ]
    return operators + runs


def _signature(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None when it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
