import pytest

from tests.programs import program


def test_without_a_program_tests_are_skipped_but_fail_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="absent is not installed: make setup-programs"):
        program("absent")
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="absent is not installed: make setup-programs"):
        program("absent")
