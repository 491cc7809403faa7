"""Addresses to listen on: `host:port` or `unix:///path`, checked before anything is started."""

import ipaddress
import os
import socket
from pathlib import Path

from counterhint.errors import InputError


def check_address(listen: str, insecure: bool, option: str = "--listen") -> None:
    """Refuses an address that cannot or should not be listened on.

    Args:
        listen: `host:port` (port 0: any free one) or `unix:///path`.
        insecure: whether this may leave the machine: it is TLS, or plaintext on a private network.
        option: the flag that the address was given with, for the messages.

    Raises:
        InputError: malformed, in use, or plaintext beyond this machine without `insecure`.
    """
    if listen.startswith("unix:"):
        _check_socket_path(
            Path(listen.removeprefix("unix:").removeprefix("//")), f"{option} {listen}"
        )
        return
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(
            f"{option} {listen} is no address: give host:port, 127.0.0.1:50051 say, or unix:///path"
        )
    if not insecure and not stays_here(listen):
        raise InputError(
            f"{option} {listen} would carry plaintext beyond this machine: listen on 127.0.0.1 or "
            "a unix socket, use TLS where the command has --tls-cert, or give --insecure when the "
            "network is private"
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"{option} {listen} cannot be used: {error.strerror}; choose another port, or end "
            "what listens there"
        ) from error


def _check_socket_path(path: Path, given: str) -> None:
    if not path.parent.is_dir():
        raise InputError(f"{given}: the folder {path.parent} does not exist")
    if len(os.fsencode(path)) > 107:
        raise InputError(
            f"{given}: a unix socket's path has at most 107 bytes; choose a shorter one"
        )
    # gRPC replaces a socket file that is there, even one in use: so ask whether someone answers.
    with socket.socket(socket.AF_UNIX) as probe:
        if path.exists() and probe.connect_ex(str(path)) == 0:
            raise InputError(
                f"{given}: a server listens there already; end it or choose another path"
            )


def stays_here(address: str) -> bool:
    """Whether what goes to an address cannot leave this machine: a unix socket, or loopback.

    Names other than `localhost` are not looked up, so they count as elsewhere.
    """
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound_address(listen: str, port: int) -> str:
    """The address that clients use, once the port is known (port 0 asks for any free one)."""
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
