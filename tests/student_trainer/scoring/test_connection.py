from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.scoring import ScoringConfig, credentials_of
from tests.certificates import Authority


def test_the_recipe_s_keys_come_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, file = Authority(tmp_path, "site"), tmp_path / "maths.token"
    file.write_text("chint_of_the_recipe")
    monkeypatch.setenv("COUNTERHINT_TOKEN", "chint_of_the_environment")
    monkeypatch.setenv("COUNTERHINT_TLS_CA", str(authority.file))
    credentials = credentials_of(ScoringConfig(address="teacher.example:1"))
    assert credentials.metadata() == (("authorization", "Bearer chint_of_the_environment"),)
    credentials = credentials_of(ScoringConfig(address="teacher.example:1", token_file=file))
    assert credentials.metadata() == (("authorization", "Bearer chint_of_the_recipe"),)
    assert credentials.tls_ca == authority.file


def test_what_cannot_be_used_is_named_as_the_user_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing"
    cases = [
        ({"token_file": missing}, f"scoring.token_file {missing} cannot be read"),
        ({"tls_ca": missing}, f"scoring.tls_ca {missing} cannot be read"),
        ({"tls_cert": missing}, "scoring.tls_cert goes with scoring.tls_key: give both"),
    ]
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            credentials_of(ScoringConfig(**given))  # type: ignore[arg-type]
    monkeypatch.setenv("COUNTERHINT_TOKEN", "chint_x")
    remote = ScoringConfig(address="teacher.example:1")
    with pytest.raises(InputError, match="COUNTERHINT_TOKEN would go to teacher"):
        credentials_of(remote)
    credentials_of(remote.model_copy(update={"insecure": True}))
    monkeypatch.setenv("COUNTERHINT_TLS_CA", str(missing))
    with pytest.raises(InputError, match=f"COUNTERHINT_TLS_CA {missing} cannot be read"):
        credentials_of(remote)
