"""The command line of `services run`: what it refuses."""

import socket

import pytest

from deploy.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["intake", "--listen", "127.0.0.1:0"], "services run intake without --redis"),
        (["dispatcher", "--teachers", "127.0.0.1:1"], "give --redis URL"),
        ([], "give --teachers host:port"),
        (["--teachers", "127.0.0.1:1", "--listen", "0.0.0.0:0"], "give --insecure"),
        (["--teachers", "127.0.0.1:1", "--listen", "nowhere"], "is no address"),
        (["gateways"], "'gateways'"),
        (["--redis", "unix:///nowhere/redis.sock", "--teachers", "127.0.0.1:1"], "start a Redis"),
        (["--redis", "nonsense", "--teachers", "127.0.0.1:1"], "--redis nonsense"),
        (["--teachers", "127.0.0.1:1", "--max-jobs", "0"], "--max-jobs"),
        (["--teachers", "127.0.0.1:1", "--imbalance", "-1"], "--imbalance"),
        (["--teachers", "127.0.0.1:1", "--max-part-tokens", "0"], "--max-part-tokens"),
    ],
)
def test_what_cannot_be_used_is_named_and_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["services", "run", "--http-listen", "127.0.0.1:0", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["--teachers", "127.0.0.1:1", "--listen", address]
        assert main(["services", "run", "intake", "dispatcher", *arguments]) == 2
    assert f"--listen {address} cannot be used" in capsys.readouterr().err
