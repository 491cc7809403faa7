"""The commands for tokens: `counterhint tokens new`, `revoke` and `ls`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE, Command
from counterhint.errors import InputError
from counterhint.tokens import (
    Digests,
    Grant,
    TokenTable,
    changing,
    new_token,
    now,
    read_table,
    write_table,
)
from services.tables import print_table

ID_DIGITS = 12
"""Hexadecimal digits of a token's digest by which people name it."""


class TokensCommand(Command):
    """What every command for tokens needs."""

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_TOKENS_")

    file: Path
    """The token file that servers get with --tokens."""
    json_: bool = Field(False, alias="json")
    """Print JSON."""


class TokensNew(TokensCommand):
    """Make a token for a run and print it, this once: the file keeps its SHA-256 only.

    The run maths is every training run whose folder is maths or begins with maths-. A run may have
    several tokens; what was given last holds for all of them, what is not given stays.

    example:
      counterhint tokens new maths --weight 2 --priority 1 --file tokens.json > maths.token
      counterhint tokens new dispatcher --operator --file tokens.json > dispatcher.token
    """

    name: CliPositionalArg[str]
    """The run, or who gets an operator's token."""
    operator: bool = False
    """Make a token that may act for every run, for dispatchers and tools."""
    weight: float | None = None
    """The run's share of the tokens, compared with other runs' weights; 1 at first."""
    priority: int | None = None
    """The highest priority that its jobs may have, 0 to 3; 3 at first."""
    max_jobs: int | None = None
    """Most unfinished jobs of the run; the queue's own bound at first."""
    max_bytes: int | None = None
    """Most payload bytes of its unfinished jobs; the queue's own bound at first."""

    def run(self) -> int:
        """Writes the file, then prints the token."""
        token, digest = new_token()
        with changing(self.file) as table:
            if self.name in (table.runs if self.operator else table.operators):
                other = "a run" if self.operator else "an operator"
                raise InputError(
                    f"tokens new {self.name}: there is {other} of this name; choose another"
                )
            content = table.model_dump()
            if self.operator:
                content["operators"].setdefault(self.name, {})[digest] = now()
            else:
                grant = content["runs"].setdefault(self.name, Grant().model_dump())
                grant["tokens"][digest] = now()
            content["runs"].get(self.name, {}).update(self._changes())
            try:
                write_table(self.file, TokenTable.model_validate(content))
            except ValidationError as error:
                problem = error.errors()[0]
                what = problem["loc"][-1] if problem["loc"][-1] in Grant.model_fields else "name"
                raise InputError(
                    f"tokens new {self.name}: {what}: {problem['msg']} (got {problem['input']!r})"
                ) from error
        if self.json_:
            print(json.dumps({"token": token, "id": digest[:ID_DIGITS], "name": self.name}))
        else:
            print(token)
        return EXIT_DONE

    def _changes(self) -> dict[str, float | int]:
        given = {
            "weight": self.weight,
            "max_priority": self.priority,
            "max_jobs": self.max_jobs,
            "max_bytes": self.max_bytes,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        if self.operator and changes:
            raise InputError("tokens new --operator: weight, priority and bounds are for runs only")
        return changes


class TokensRevoke(TokensCommand):
    """Take the tokens of a run or an operator back, or one of them by its id.

    Servers that read the file refuse them from the next job on; jobs in the queue stay.

    example:
      counterhint tokens revoke maths --file tokens.json
      counterhint tokens revoke maths --id 3b5a64f0c2d1 --file tokens.json
    """

    name: CliPositionalArg[str]
    """The run or operator."""
    id: str | None = None
    """The token, as `counterhint tokens ls` names it; all of them by default."""

    def run(self) -> int:
        """Writes the file and says how many were revoked; exit code 1 when there was none."""
        with changing(self.file) as table:
            content = table.model_dump()
            runs, operators = content["runs"], content["operators"]
            tokens = runs[self.name]["tokens"] if self.name in runs else operators.get(self.name)
            if tokens is None:
                raise InputError(
                    f"tokens revoke {self.name}: no run or operator has this name; "
                    "`counterhint tokens ls` lists them"
                )
            revoked = [digest for digest in tokens if self.id in (None, digest[:ID_DIGITS])]
            for digest in revoked:
                del tokens[digest]
            if not tokens:
                runs.pop(self.name, None)
                operators.pop(self.name, None)
            write_table(self.file, TokenTable.model_validate(content))
        if self.json_:
            print(json.dumps({"name": self.name, "revoked": [it[:ID_DIGITS] for it in revoked]}))
        else:
            print(f"{self.name}: {len(revoked)} tokens revoked")
        return EXIT_DONE if revoked else EXIT_NEGATIVE


@dataclass(frozen=True)
class TokenRow:
    """A line of `tokens ls`."""

    id: str
    name: str
    role: str
    made: str
    weight: float | None = None
    max_priority: int | None = None
    max_jobs: int | None = None
    max_bytes: int | None = None


class TokensList(TokensCommand):
    """List the tokens by their ids, with what each may do.

    example:
      counterhint tokens ls --file tokens.json
    """

    def run(self) -> int:
        """Prints a row for each token."""
        table = read_table(self.file)
        rows = _rows(table)
        if self.json_:
            print(json.dumps([asdict(row) for row in rows], indent=2))
            return EXIT_DONE
        shown = Table(*TokenRow.__dataclass_fields__, box=SIMPLE_HEAD, padding=0)
        for row in rows:
            shown.add_row(*("" if value is None else str(value) for value in asdict(row).values()))
        print_table(shown)
        return EXIT_DONE


def _rows(table: TokenTable) -> list[TokenRow]:
    def rows(name: str, role: str, tokens: Digests, grant: Grant | None) -> list[TokenRow]:
        bounds = {} if grant is None else grant.model_dump(exclude={"tokens"})
        return [
            TokenRow(digest[:ID_DIGITS], name, role, made.date().isoformat(), **bounds)
            for digest, made in tokens.items()
        ]

    listed = []
    for name, grant in table.runs.items():
        listed += rows(name, "run", grant.tokens, grant)
    for name, tokens in table.operators.items():
        listed += rows(name, "operator", tokens, None)
    return listed
