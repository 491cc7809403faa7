from datetime import timedelta
from pathlib import Path

import pytest

from counterhint.certificates import ServerTls, check_client_certificates
from counterhint.credentials import Credentials
from counterhint.errors import InputError
from tests.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_certificates_that_can_be_used_are_taken(authority: Authority) -> None:
    pair = authority.issue("server")
    ServerTls(pair.cert, pair.key, authority.file).credentials()
    check_client_certificates(
        Credentials(tls_ca=authority.file, tls_cert=pair.cert, tls_key=pair.key)
    )
    check_client_certificates(Credentials())


def test_what_cannot_be_used_is_named_with_its_flag(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.issue("server"), authority.issue("other")
    old = authority.issue("old", timedelta(hours=-1))
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_text("")
    cases = [
        (missing, pair.key, f"cert {missing} cannot be read: No such file or directory"),
        (pair.cert, missing, f"key {missing} cannot be read: No such file or directory"),
        (empty, pair.key, f"cert {empty} is no PEM certificate"),
        (pair.cert, empty, f"key {empty} is no PEM key"),
        (pair.key, pair.key, f"cert {pair.key} is no PEM certificate"),
        (pair.cert, pair.cert, f"key {pair.cert} is no PEM key"),
        (pair.cert, other.key, f"key {other.key} is not the key of --tls-cert {pair.cert}"),
        (old.cert, old.key, f"cert {old.cert} expired on "),
    ]
    for cert, key, message in cases:
        with pytest.raises(InputError, match=f"--tls-{message}"):
            ServerTls(cert, key)
        with pytest.raises(InputError, match=f"--tls-{message}"):
            check_client_certificates(
                Credentials(
                    tls_ca=authority.file,
                    tls_cert=cert,
                    tls_key=key,
                    named=lambda field: f"--{field.replace('_', '-')}",
                )
            )
    with pytest.raises(InputError, match=f"--tls-client-ca {empty} is no PEM certificate"):
        ServerTls(pair.cert, pair.key, empty)
    with pytest.raises(InputError, match=f"tls_ca {old.cert} expired on"):
        check_client_certificates(Credentials(tls_ca=old.cert))
