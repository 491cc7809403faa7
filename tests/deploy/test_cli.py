import importlib
import subprocess
import sys

import pytest

from counterhint.command_line import Command
from deploy.cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    assert issubclass(getattr(importlib.import_module(module), attribute), Command)
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: counterhint {name}")
    assert f"counterhint {name}" in text.lower().partition("example:")[2]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_all_are_listed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_the_first_word_of_commands_has_help_that_lists_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["queue", "--help"]) == 0
    printed = capsys.readouterr().out
    for name in COMMANDS:
        assert (COMMANDS[name].summary in printed) == name.startswith("queue ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [("queue", "queue"), ("queue lose", "queue lose"), ("queue --redis unix:///r.sock", "queue")],
)
def test_the_first_word_of_commands_alone_is_no_command(
    arguments: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *listed = printed.err.splitlines()
    assert first == f"counterhint: no command '{named}'; these begin so:"
    assert [" ".join(line.split()[:2]) for line in listed] == [
        name for name in COMMANDS if name.startswith("queue ")
    ]


def test_an_unknown_command_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bake"]) == 2
    assert capsys.readouterr().err == (
        "counterhint: no command 'bake'; counterhint --help lists them\n"
    )


@pytest.mark.parametrize(
    ("library", "command", "extra"),
    [
        ("redis", "services run", "services"),
        ("torch", "teacher serve --model nowhere", "teacher"),
        ("torch", "train recipes/tiny.yaml", "student"),
        ("pydantic_settings", "report nowhere", "student"),
    ],
)
def test_a_part_that_is_not_installed_names_its_extra(
    library: str, command: str, extra: str
) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"  # as if it were not installed
        "from deploy.cli import main\n"
        f"sys.exit(main({command.split()!r}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.endswith(
        f"{library} is not installed; pip install 'counterhint[{extra}]'\n"
    )
