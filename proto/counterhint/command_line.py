"""Commands as pydantic models: each field is a flag, an environment variable and a key of a file.

A command is a `Command` subclass: its docstring is the help text (with an example), its fields are
the flags, `run` does the work. Values are taken from flag > environment > `--config` file >
default. Exit codes: 0 done; 1 the work ended with a negative result; 2 something that the user gave
cannot be used or reached; 70 a server's engine died or hangs, so it should be started again; 130
interrupted.

Needs the extra `cli`.
"""

import argparse
import json
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from counterhint.errors import CounterhintError, InputError

EXIT_DONE, EXIT_NEGATIVE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
EXIT_ENGINE_DEAD = 70
"""EX_SOFTWARE of sysexits.h: nothing that the user gave is at fault."""


class Command(BaseSettings):
    """A command of the console script; subclasses set `env_prefix` and their fields."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        protected_namespaces=(),
    )

    config: Path | None = None
    """YAML file with values for these flags (underscores for dashes)."""

    @abstractmethod
    def run(self) -> int:
        """Does the work.

        Returns:
            The exit code.

        Raises:
            InputError: something that the user gave cannot be used.
        """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (as init values) > environment > file."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)


def run_command(command: type[Command], name: str, arguments: Sequence[str]) -> int:
    """Parses the arguments of one command and runs it.

    Args:
        command: the command.
        name: how it is called, for its help: `counterhint teacher serve`.
        arguments: what stands after that name.

    Returns:
        The exit code; errors have been printed, those of files and folders among them.
    """
    try:
        return parse_command(command, name, arguments).run()
    except (InputError, CounterhintError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{name}: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def parse_command(command: type[Command], name: str, arguments: Sequence[str]) -> Command:
    """The command with its arguments, not run.

    Raises:
        InputError: an argument, a variable or the `--config` file cannot be used.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    file: Path | None = finder.parse_known_args(arguments)[0].config
    with_file = command
    if file is not None:
        _check_file(file)
        with_file = type(
            command.__name__,
            (command,),
            {
                "__doc__": command.__doc__,
                "__module__": command.__module__,
                "model_config": SettingsConfigDict(yaml_file=file),
            },
        )
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        with_file, cli_prog_name=name, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser = source.root_parser
    left_over = parser.parse_known_args(arguments)[1]
    # argparse does not take flags among the values of a list unless it is told to.
    intermixed = bool(left_over) and not any(word.startswith("-") for word in left_over)
    parse = parser.parse_intermixed_args if intermixed else parser.parse_args
    # As JSON, which is taken as it is: given as lists, values are split at their commas.
    values = {
        field: json.dumps(value) if isinstance(value, list) else value
        for field, value in vars(parse(arguments)).items()
    }
    try:
        return CliApp.run(with_file, cli_args=values, cli_settings_source=source)
    except ValidationError as error:
        raise InputError(_describe(error, command, name)) from error


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"--config {file}: no such file")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"--config {file} is not UTF-8 ({error}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise InputError(f"--config {file} is not YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"--config {file} must hold `key: value` lines")


def _describe(error: ValidationError, command: type[Command], name: str) -> str:
    prefix = command.model_config.get("env_prefix", "")
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        flag = path.replace("_", "-")
        value = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
        lines.append(f"--{flag} (or {prefix}{path.upper()}): {problem['msg']}{value}")
    return "\n".join([*lines, f"see {name} --help"])
