import threading
from pathlib import Path

import pytest

from counterhint import ScoringClient
from counterhint.credentials import NO_CREDENTIALS, Credentials
from counterhint.errors import InputError

A, B = Path("a.pem"), Path("b.pem")


def test_the_token_is_read_from_its_file_for_every_call(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("chint_one\n")
    credentials = Credentials(token_file=file)
    assert credentials.metadata() == (("authorization", "Bearer chint_one"),)
    file.write_text("chint_two")
    assert credentials.metadata() == (("authorization", "Bearer chint_two"),)
    file.unlink()
    with pytest.raises(InputError, match=f"token_file {file} cannot be read: No such file"):
        credentials.metadata()


@pytest.mark.parametrize("content", ["", " \n", "one two", "one\ntwo", "größe", "a\x00b", "a\x1b"])
def test_what_is_no_token_is_refused_and_not_shown(content: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    for credentials in (Credentials(token_file=file), Credentials(token=content)):
        with pytest.raises(InputError, match="holds no token") as refused:
            credentials.metadata()
        assert not content.strip() or content not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"token": "x", "token_file": A}, "--token and --token_file are both given"),
        ({"tls_ca": A, "tls_cert": B}, "--tls_cert goes with --tls_key"),
        ({"tls_ca": A, "tls_key": B}, "--tls_key goes with --tls_cert"),
        ({"tls_cert": A, "tls_key": B}, "--tls_cert needs --tls_ca"),
    ],
)
def test_halves_and_doubles_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Credentials(**given, named=lambda field: f"--{field}")  # type: ignore[arg-type]


def test_the_environment_gives_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Credentials.from_environment() == NO_CREDENTIALS
    monkeypatch.setenv("COUNTERHINT_TOKEN", "chint_x")
    monkeypatch.setenv("COUNTERHINT_TLS_CA", "a.pem")
    assert Credentials.from_environment() == Credentials(token="chint_x", tls_ca=A)
    monkeypatch.setenv("COUNTERHINT_INSECURE", "1")
    assert Credentials.from_environment().insecure
    monkeypatch.setenv("COUNTERHINT_TOKEN_FILE", "b.pem")
    with pytest.raises(InputError, match="COUNTERHINT_TOKEN and COUNTERHINT_TOKEN_FILE"):
        Credentials.from_environment()


@pytest.mark.parametrize(
    ("address", "leaves"),
    [
        ("127.0.0.1:50050", False),
        ("localhost:50050", False),
        ("[::1]:50050", False),
        ("unix:///run/intake.sock", False),
        ("0.0.0.0:50050", True),
        ("10.0.0.1:50050", True),
        ("[fe80::1]:50050", True),
        ("localhost.example:50050", True),
        ("127.0.0.1.example:50050", True),
        ("dns:///localhost:50050", True),
        ("nonsense", True),
    ],
)
def test_a_token_in_plaintext_stays_on_this_machine(address: str, leaves: bool) -> None:
    credentials = Credentials(token="chint_secret")
    if leaves:
        with pytest.raises(InputError, match="in plaintext: give tls_ca") as refused:
            credentials.check(address)
        assert "chint_secret" not in str(refused.value)
        threads = set(threading.enumerate())
        with pytest.raises(InputError, match="in plaintext"):
            ScoringClient(address, credentials=Credentials(token="chint_secret"))
        begun = set(threading.enumerate()) - threads
        assert not any(thread.name == "scoring-client" for thread in begun)
    else:
        credentials.check(address)
    Credentials(token="chint_secret", insecure=True).check(address)
    Credentials(token="chint_secret", tls_ca=A).check(address)
    NO_CREDENTIALS.check(address)
