"""`counterhint tokens`, and what the servers' flags for tokens and certificates refuse."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from counterhint.tokens import TokenFile, read_table
from deploy.cli import main
from services.queue.records import RunPolicy
from tests.certificates import Authority


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code, and what went to stdout and stderr."""
    code = main(["tokens", *arguments])
    printed = capsys.readouterr()
    return code, printed.out.strip(), printed.err.strip()


def test_a_token_is_printed_once_and_works(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--file", str(file))
    code, first, _ = run(capsys, "new", "maths", "--weight", "2", "--max-jobs", "7", *at)
    assert code == 0
    caller = TokenFile(file).caller(first)
    assert caller is not None
    assert caller.run == "maths"
    code, answer, _ = run(capsys, "new", "maths", "--priority", "1", "--json", *at)
    second = json.loads(answer)["token"]
    grant = read_table(file).runs["maths"]
    assert (grant.weight, grant.max_priority, grant.max_jobs) == (2.0, 1, 7)  # of both
    assert len(grant.tokens) == 2
    _, third, _ = run(capsys, "new", "dispatcher", "--operator", *at)
    for arguments in (["ls", *at], ["ls", "--json", *at]):
        _, listed, _ = run(capsys, *arguments)
        assert "maths" in listed
        assert "dispatcher" in listed
        assert not any(token in listed for token in (first, second, third))


def test_tokens_are_revoked_by_name_or_one_by_one(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--file", str(file))
    tokens = {name: run(capsys, "new", name, *at)[1] for name in ("maths", "logic")}
    newer = json.loads(run(capsys, "new", "maths", "--json", *at)[1])

    def known() -> list[bool]:
        table = TokenFile(file)
        everyone = (tokens["maths"], newer["token"], tokens["logic"])
        return [table.caller(token) is not None for token in everyone]

    assert known() == [True, True, True]
    code, answer, _ = run(capsys, "revoke", "maths", "--id", newer["id"], "--json", *at)
    assert (code, json.loads(answer)["revoked"]) == (0, [newer["id"]])
    assert known() == [True, False, True]
    assert run(capsys, "revoke", "maths", "--id", newer["id"], *at)[0] == 1
    assert run(capsys, "revoke", "maths", *at)[1] == "maths: 1 tokens revoked"
    assert known() == [False, False, True]
    code, _, error = run(capsys, "revoke", "maths", *at)
    assert code == 2
    assert "no run or operator has this name" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/b"], "tokens new a/b: name: String should match"),
        (["maths", "--weight", "0"], "tokens new maths: weight: "),
        (["maths", "--weight", "nan"], "tokens new maths: weight: "),
        (["maths", "--priority", "4"], "tokens new maths: max_priority: "),
        (["maths", "--max-bytes", "-1"], "tokens new maths: max_bytes: "),
        (["maths", "--operator", "--weight", "2"], "are for runs only"),
        (["taken", "--operator"], "there is a run of this name"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(
    arguments: list[str], message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "new", "taken", "--file", str(file))
    before = file.read_bytes()
    code, out, error = run(capsys, "new", *arguments, "--file", str(file))
    assert (code, out) == (2, "")
    assert message in error
    assert file.read_bytes() == before


def test_the_queue_takes_every_grant_that_a_token_file_can_hold() -> None:
    for weight, priority in ((0.001, 0), (1000.0, 3)):
        RunPolicy(weight, priority, 0, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tokens {none}", "--tokens {none} cannot be read: No such file or directory"),
        ("--tokens {cert}", "--tokens {cert} is no token file"),
        ("--tls-cert {cert}", "--tls-cert goes with --tls-key: give both"),
        ("--tls-key {key}", "--tls-key goes with --tls-cert: give both"),
        ("--tls-client-ca {ca}", "needs TLS: give --tls-cert and --tls-key"),
        ("--tls-cert {none} --tls-key {key}", "--tls-cert {none} cannot be read"),
        ("--tls-cert {cert} --tls-key {other}", "--tls-key {other} is not the key of --tls-cert"),
        ("--tls-cert {old} --tls-key {oldkey}", "--tls-cert {old} expired on"),
        ("--teacher-tls-ca {old}", "--teacher-tls-ca {old} expired on"),
        ("--teacher-token-file {none}", "--teacher-token-file {none} cannot be read"),
        ("--teacher-tls-cert {cert}", "--teacher-tls-cert goes with --teacher-tls-key"),
        (
            "--teacher-token-file {token} --teachers teacher.example:1",
            "--teacher-token-file would go to teacher.example:1 in plaintext: give "
            "--teacher-tls-ca, the authority of the server's certificate, or --insecure",
        ),
        ("--redis redis://me:chint_x@127.0.0.1:1/0", "--redis redis://me:…@127.0.0.1:1/0: "),
    ],
)
def test_services_name_the_flag_that_cannot_be_used(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path, "site")
    pair, other = authority.issue("server"), authority.issue("other")
    old = authority.issue("old", timedelta(hours=-1))
    token = tmp_path / "token"
    token.write_text("chint_x")
    names = {
        "none": tmp_path / "none",
        "ca": authority.file,
        "cert": pair.cert,
        "key": pair.key,
        "other": other.key,
        "old": old.cert,
        "oldkey": old.key,
        "token": token,
    }
    arguments = ["--listen", "127.0.0.1:0", "--teachers", "127.0.0.1:1"]
    arguments += [*(flag.format(**names) for flag in flags.split())]
    assert main(["services", "run", "intake", "dispatcher", *arguments]) == 2
    error = capsys.readouterr().err
    assert message.format(**names) in error
    assert error.count("\n") == 1
    assert "chint_x" not in error


def test_with_tls_any_address_may_be_listened_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher's command has the same flags; the model that is missing is asked for after."""
    pair = Authority(tmp_path, "site").issue("server")
    serve = ["teacher", "serve", "--model", str(tmp_path / "none"), "--listen", "0.0.0.0:0"]
    assert main(serve) == 2
    assert "would carry plaintext beyond this machine" in capsys.readouterr().err
    assert main([*serve, "--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]) == 2
    assert "no such folder" in capsys.readouterr().err
