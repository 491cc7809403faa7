import socket
from pathlib import Path

import pytest

from counterhint.addresses import check_address
from counterhint.errors import InputError


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("50051", "is no address"),
        ("localhost:port", "is no address"),
        ("localhost:70000", "is no address"),
        ("0.0.0.0:0", "--insecure"),
        ("[::]:0", "--insecure"),
        ("10.1.2.3:50051", "--insecure"),
        ("unix:///no/such/folder/t.sock", "folder /no/such/folder does not exist"),
        (f"unix:///{'x' * 110}", "at most 107 bytes"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(listen, message):
    with pytest.raises(InputError, match=message) as refused:
        check_address(listen, insecure=False)
    assert listen in str(refused.value)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "127.9.9.9:0"])
def test_loopback_needs_no_permission(listen):
    check_address(listen, insecure=False)


def test_insecure_permits_plaintext_on_any_address():
    check_address("0.0.0.0:0", insecure=True)


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port} cannot be used: Address already"):
            check_address(f"127.0.0.1:{port}", insecure=False)


def test_a_socket_that_answers_is_refused_and_a_stale_one_is_not(tmp_path: Path):
    path = tmp_path / "t.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(InputError, match="a server listens there already"):
            check_address(f"unix://{path}", insecure=False)
    assert path.exists()
    check_address(f"unix://{path}", insecure=False)
