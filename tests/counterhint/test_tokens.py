import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.errors import InputError, PermissionDenied
from counterhint.tokens import (
    ANYONE,
    TOKEN_PREFIX,
    Caller,
    Grant,
    TokenFile,
    TokenTable,
    changing,
    new_token,
    now,
    read_table,
    write_table,
)


def table_of(**tokens: str) -> TokenTable:
    return TokenTable(
        runs={
            name: Grant(tokens={hashlib.sha256(token.encode()).hexdigest(): now()})
            for name, token in tokens.items()
        }
    )


def test_the_file_holds_digests_only_and_is_its_owner_s(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    token, digest = new_token()
    assert token.startswith(TOKEN_PREFIX)
    assert len(token) == len(TOKEN_PREFIX) + 43  # 256 bits
    assert digest == hashlib.sha256(token.encode()).hexdigest()
    assert new_token()[0] != token
    table = table_of(maths=token)
    write_table(file, table)
    assert digest in file.read_text()
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["tokens.json"]
    assert read_table(file) == table


def test_a_changed_file_counts_at_once_and_a_broken_one_leaves_the_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens.json"
    write_table(file, table_of(maths="one"))
    tokens = TokenFile(file)

    def known() -> list[str]:
        found = ((token, tokens.caller(token)) for token in ("one", "two", "three"))
        return [f"{token} {caller.run}" for token, caller in found if caller is not None]

    assert known() == ["one maths"]
    write_table(file, table_of(maths="one", logic="two"))
    assert known() == ["one maths", "two logic"]
    file.write_text("{")
    assert known() == ["one maths", "two logic"]
    file.unlink()
    assert known() == ["one maths", "two logic"]
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2  # each state is told once
    assert all("the tokens read before stay in force" in error for error in errors)
    write_table(file, table_of(logic="three"))
    assert known() == ["three logic"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "the whole: Invalid JSON"),
        ("[]", "the whole: Input should be an object"),
        ('{"runs": {"a/b": {}}}', "runs.a/b"),
        ('{"runs": {"a": {"weight": 0}}}', "runs.a.weight"),
        ('{"runs": {"a": {"weight": NaN}}}', "runs.a.weight"),
        ('{"runs": {"a": {"max_priority": 4}}}', "runs.a.max_priority"),
        ('{"runs": {"a": {"max_jobs": -1}}}', "runs.a.max_jobs"),
        ('{"runs": {"a": {"tokens": {"chint_x": "2026-01-01"}}}}', "runs.a.tokens.chint_x"),
        ('{"users": {}}', "users: Extra inputs"),
    ],
)
def test_a_file_that_is_no_token_file_is_refused_at_the_start(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(content)
    with pytest.raises(InputError, match=f"--tokens {file} is no token file: {message}"):
        TokenFile(file)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        TokenFile(tmp_path / "none.json")


def test_changes_wait_for_one_another(tmp_path: Path) -> None:
    """Two changes at a time would lose one of them."""
    file, entered = tmp_path / "tokens.json", threading.Event()

    def add(table: TokenTable, name: str) -> None:
        write_table(file, table.model_copy(update={"runs": {**table.runs, name: Grant()}}))

    def change() -> None:
        with changing(file) as table:
            entered.set()
            add(table, "second")

    other = threading.Thread(target=change)
    with changing(file) as table:
        other.start()
        assert not entered.wait(0.2)
        add(table, "first")
    other.join()
    assert set(read_table(file).runs) == {"first", "second"}


names = st.from_regex(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,9}", fullmatch=True)


@given(names, names, st.text(max_size=9), st.text(max_size=9))
def test_ids_of_different_runs_are_never_the_same(
    one: str, other: str, first: str, second: str
) -> None:
    ours, theirs = Caller(one, Grant()).own_id(first), Caller(other, Grant()).own_id(second)
    assert (ours == theirs) == ((one, first) == (other, second))
    assert ANYONE.own_id(first) == first


@pytest.mark.parametrize(
    ("run_id", "allowed"),
    [
        ("maths", True),
        ("maths-1f9c03ab", True),
        ("maths-2-1f9c03ab", True),
        ("maths2", False),
        ("math", False),
        ("", False),
        ("Maths", False),
        ("logic-maths", False),
        ("maths/x", False),
    ],
)
def test_a_run_s_token_is_for_its_training_runs(run_id: str, allowed: bool) -> None:
    ANYONE.check_run(run_id)
    caller = Caller("maths", Grant())
    if allowed:
        caller.check_run(run_id)
    else:
        with pytest.raises(PermissionDenied) as refused:
            caller.check_run(run_id)
        assert refused.value.details == {"token": "maths", "job": run_id}
