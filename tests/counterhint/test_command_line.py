from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from counterhint.command_line import Command, run_command
from counterhint.errors import InputError, TokenizerMismatch, Unavailable


class Bake(Command):
    """Bake a cake.

    example: bake --flavour plum
    """

    model_config = SettingsConfigDict(env_prefix="TEST_BAKE_")

    flavour: Literal["plum", "apple"] = "apple"
    """What goes in."""
    oven_degrees: int = Field(180, ge=50)
    """How hot."""
    topping: list[str] = Field([])
    """What goes on top; repeatable."""
    layers: CliPositionalArg[list[str]] = Field([])
    """From the bottom up."""

    baked: ClassVar[list["Bake"]] = []

    def run(self) -> int:
        Bake.baked.append(self)
        return 0


@pytest.fixture(autouse=True)
def _nothing_baked() -> None:
    Bake.baked.clear()


def bake(*arguments: str) -> Bake:
    assert run_command(Bake, "bake", arguments) == 0
    return Bake.baked.pop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bake.yaml"
    path.write_text("oven_degrees: 100\nflavour: plum\n")
    return path


def test_defaults_hold_when_nothing_is_given() -> None:
    cake = bake()
    assert (cake.flavour, cake.oven_degrees, cake.topping) == ("apple", 180, [])


def test_flag_beats_environment_beats_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bake("--config", str(file)).oven_degrees == 100
    monkeypatch.setenv("TEST_BAKE_OVEN_DEGREES", "200")
    assert bake("--config", str(file)).oven_degrees == 200
    assert bake("--config", str(file), "--oven-degrees", "300").oven_degrees == 300
    assert bake("--config", str(file)).flavour == "plum"


def test_a_flag_can_be_repeated() -> None:
    assert bake("--topping", "cream", "--topping", "sugar").topping == ["cream", "sugar"]


@given(
    st.lists(st.text(st.sampled_from("ab1,=[]{}\"'\\ \n-é")) | st.sampled_from(["None", "null"]))
)
def test_the_values_of_a_list_are_taken_as_they_are(values: list[str]) -> None:
    assert bake("--", *values).layers == values
    assert bake(*(f"--topping={value}" for value in values)).topping == values


def test_flags_may_stand_among_the_values_of_a_list() -> None:
    cake = bake("dough", "--oven-degrees", "90", "plum", "--topping", "cream", "sugar")
    assert (cake.layers, cake.oven_degrees) == (["dough", "plum", "sugar"], 90)
    with pytest.raises(SystemExit):
        bake("dough", "--oven", "90", "plum")


def test_a_list_that_is_not_given_comes_from_the_file(file: Path) -> None:
    file.write_text("topping: [cream]\nlayers: ['plum, halved', dough]\n")
    cake = bake("--config", str(file))
    assert (cake.topping, cake.layers) == (["cream"], ["plum, halved", "dough"])
    cake = bake("--config", str(file), "dough", "--topping", "sugar")
    assert (cake.topping, cake.layers) == (["sugar"], ["dough"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("oven_degres: 100\n", "oven-degres"),
        ("oven_degrees: hot\n", "oven-degrees"),
        ("oven_degrees: [\n", "is not YAML"),
        ("just words\n", "key: value"),
    ],
)
def test_a_file_that_cannot_be_used_ends_with_2_and_names_the_key(
    content: str, complaint: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(content)
    assert run_command(Bake, "bake", ["--config", str(file)]) == 2
    assert Bake.baked == []
    assert complaint in capsys.readouterr().err


def test_a_file_that_is_not_utf_8_ends_with_2(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes("flavour: päre\n".encode("latin-1"))
    assert run_command(Bake, "bake", ["--config", str(file)]) == 2
    assert f"--config {file} is not UTF-8" in capsys.readouterr().err


def test_a_file_that_is_not_there_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(Bake, "bake", ["--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--flavour", "stone"], "--flavour"),
        (["--oven-degrees", "20"], "--oven-degrees (or TEST_BAKE_OVEN_DEGREES)"),
        (["--oven-degrees", "20"], "(got '20')"),
    ],
)
def test_a_value_that_cannot_be_ends_with_2_and_names_the_flag(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 2
    assert complaint in capsys.readouterr().err


def exit_code(arguments: list[str]) -> int:
    """The exit code, whether argparse or the command says it."""
    try:
        return run_command(Bake, "bake", arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_an_unknown_flag_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--colour", "red"]) == 2
    assert "--colour" in capsys.readouterr().err


def test_help_shows_every_flag_its_text_and_the_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(["--help"]) == 0
    text = capsys.readouterr().out
    for part in ("usage: bake", "--oven-degrees", "How hot.", "example: bake --flavour plum"):
        assert part in text


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("no oven: buy one"), 2, "bake: no oven: buy one\n"),
        (TokenizerMismatch("ours", "theirs"), 2, "tokenizer ours"),
        (Unavailable("no teacher", reason="ENGINE_DOWN"), 2, "bake: no teacher\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fail(Bake):
        """Fails."""

        def run(self) -> int:
            raise error

    assert run_command(Fail, "bake", []) == code
    assert text in capsys.readouterr().err


def test_an_error_of_ours_is_a_traceback() -> None:
    class Fail(Bake):
        """Has a bug."""

        def run(self) -> int:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run_command(Fail, "bake", [])


class Write(Command):
    """Write a file."""

    model_config = SettingsConfigDict(env_prefix="TEST_WRITE_")

    path: CliPositionalArg[Path]
    """Where to."""

    def run(self) -> int:
        self.path.write_text("cake")
        return 0


def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Write, "write", [str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"write: {tmp_path}: Is a directory\n"


def test_a_bad_value_points_to_the_help_of_its_own_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(Bake, "counterhint bake", ["--oven-degrees", "20"]) == 2
    assert capsys.readouterr().err.endswith("see counterhint bake --help\n")
