"""`counterhint doctor` against a real Redis and a real teacher."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from deploy.cli import main
from deploy.local.redis import LocalRedis
from tests.certificates import Authority
from tests.teacher_process import serve_teacher
from tests.tiny_models import write_tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_llama(folder)
    return folder


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_teacher(model, tmp_path_factory.mktemp("socket"), ["--device", "cpu"]) as address:
        yield address


@pytest.fixture
def sound_redis(redis_server: LocalRedis) -> Iterator[str]:
    """A Redis with the settings that the documents ask for, as they were at the end."""
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "maxmemory": "100mb"}
    with redis.Redis.from_url(redis_server.url) as operator:
        before = {name: operator.config_get(name)[name] for name in wanted}
        for name, value in wanted.items():
            operator.config_set(name, value)
        operator.flushdb()
        yield redis_server.url
        for name, value in before.items():
            operator.config_set(name, value)


def doctor(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and findings by check; of several of one check the worst."""
    code = main(["doctor", "--json", *map(str, arguments)])
    said = json.loads(capsys.readouterr().out)
    order = ("ok", "note", "warning", "problem")
    found = sorted(said["findings"], key=lambda finding: order.index(finding["state"]))
    return code, {finding["check"]: finding for finding in found}


def test_a_sound_system_has_no_problem(
    capsys: pytest.CaptureFixture[str],
    sound_redis: str,
    address: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.doctor.redis.SLOW_SECONDS", 60.0)  # whatever else runs here
    code, found = doctor(
        capsys,
        *("--redis", sound_redis, "--teachers", address, "--tokenizer", model),
        *("--listen", "127.0.0.1:0", "--folder", tmp_path / "runs"),
    )
    assert code == 0
    for check in (
        *("redis", "redis release", "redis round trip", "redis clock", "redis settings"),
        *("redis memory", f"teacher {address}", f"tokenizer {model}", "listen 127.0.0.1:0"),
    ):
        assert found[check]["state"] == "ok", found[check]
    assert "0 jobs queued" in found["queue"]["found"]
    assert "cores" in found["cpu and memory"]["found"]


@pytest.mark.parametrize(
    ("setting", "value", "check", "state", "remedy"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis settings", "problem", "noeviction"),
        ("appendonly", "no", "redis settings", "warning", "appendonly yes"),
        ("maxmemory", "0", "redis memory", "warning", "CONFIG SET maxmemory"),
    ],
)
def test_redis_settings_that_cost_jobs_are_named(
    capsys: pytest.CaptureFixture[str],
    sound_redis: str,
    setting: str,
    value: str,
    check: str,
    state: str,
    remedy: str,
) -> None:
    with redis.Redis.from_url(sound_redis) as operator:
        operator.config_set(setting, value)
    code, found = doctor(capsys, "--redis", sound_redis)
    assert (found[check]["state"], code) == (state, int(state == "problem"))
    assert remedy in found[check]["remedy"]


def test_a_slow_redis_is_a_warning(
    capsys: pytest.CaptureFixture[str], sound_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.doctor.redis.SLOW_SECONDS", 0.0)
    code, found = doctor(capsys, "--redis", sound_redis)
    assert (code, found["redis round trip"]["state"]) == (0, "warning")
    assert "beside" in found["redis round trip"]["remedy"]


def test_the_queue_s_own_user_is_told_what_it_may_not_see(
    capsys: pytest.CaptureFixture[str], queue_user_url: str
) -> None:
    code, found = doctor(capsys, "--redis", queue_user_url)
    assert code == 0
    assert found["redis clock"]["state"] == "ok"
    assert "administrator" in found["redis settings"]["remedy"]


def test_what_does_not_answer_is_a_problem_with_a_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.doctor.teachers.ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        nobody = f"unix://{tmp_path}/nobody.sock"
        code, found = doctor(capsys, "--redis", nobody, "--teachers", nobody, "--listen", busy)
    assert code == 1
    for check in ("redis", f"teacher {nobody}", f"listen {busy}"):
        assert found[check]["state"] == "problem"
        assert found[check]["remedy"]


def test_what_listens_but_does_not_answer_has_the_remedy_of_its_tls(
    capsys: pytest.CaptureFixture[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A teacher that asks for certificates: looks with one, without one, without TLS."""
    authority = Authority(tmp_path, "site")
    own = authority.issue("teacher")
    monkeypatch.setenv("COUNTERHINT_TLS_CA", str(authority.file))
    monkeypatch.setenv("COUNTERHINT_TLS_CERT", str(own.cert))
    monkeypatch.setenv("COUNTERHINT_TLS_KEY", str(own.key))
    options = ["--tls-cert", own.cert, "--tls-key", own.key, "--tls-client-ca", authority.file]
    with serve_teacher(model, tmp_path, ["--device", "cpu", *map(str, options)]) as address:
        assert doctor(capsys, "--teachers", address)[0] == 0
        monkeypatch.setattr("services.doctor.teachers.ANSWER_SECONDS", 0.5)
        for gone, named in (
            (("COUNTERHINT_TLS_CERT", "COUNTERHINT_TLS_KEY"), "set COUNTERHINT_TLS_CERT"),
            (("COUNTERHINT_TLS_CA",), "set COUNTERHINT_TLS_CA"),
        ):
            for variable in gone:
                monkeypatch.delenv(variable)
            code, found = doctor(capsys, "--teachers", address)
            assert code == 1
            assert named in found[f"teacher {address}"]["remedy"]


def test_one_problem_is_no_problems(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.doctor.teachers.ANSWER_SECONDS", 0.5)
    nobody = f"unix://{tmp_path}/nobody.sock"
    assert main(["doctor", "--teachers", nobody, "--folder", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 problem, " in out.splitlines()[-1]
    assert "start it (counterhint teacher serve" in out


def test_another_tokenizer_is_a_problem(
    capsys: pytest.CaptureFixture[str], address: str, tmp_path: Path
) -> None:
    write_tiny_llama(tmp_path, vocab_size=100)
    code, found = doctor(capsys, "--teachers", address, "--tokenizer", tmp_path)
    assert code == 1
    assert "fingerprint" in found[f"tokenizer {tmp_path}"]["found"]


def test_gpus_that_torch_does_not_see_are_a_problem(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, NVIDIA H100, 79000 MiB, 81559 MiB, 570.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, found = doctor(capsys)
    assert (code, found["cuda"]["state"]) == (1, "problem")
    assert "H100" in found["gpu"]["found"]


def test_people_get_a_line_a_finding_and_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["doctor", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note     releases: python 3.")
    assert lines[-1].startswith("0 problems, ")


def test_a_run_s_token_is_enough_for_a_look_at_a_teacher(
    capsys: pytest.CaptureFixture[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, secret = tmp_path / "tokens.json", tmp_path / "maths.token"
    assert main(["tokens", "new", "maths", "--file", str(tokens)]) == 0
    secret.write_text(capsys.readouterr().out.split()[-1])
    secret.chmod(0o600)
    monkeypatch.setenv("COUNTERHINT_TOKEN_FILE", str(secret))
    options = ["--device", "cpu", "--tokens", str(tokens)]
    with serve_teacher(model, tmp_path, options) as address:
        code, found = doctor(capsys, "--teachers", address)
    assert (code, found[f"teacher {address}"]["state"]) == (0, "ok"), found


def test_a_wrong_password_of_redis_is_told_as_such(
    capsys: pytest.CaptureFixture[str], queue_user_url: str
) -> None:
    code, found = doctor(capsys, "--redis", queue_user_url.replace("secret", "wrong"))
    assert code == 1
    assert "its password" in found["redis"]["remedy"]
    assert "wrong" not in found["redis"]["found"].partition("WRONGPASS")[0]
