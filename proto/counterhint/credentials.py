"""What a client shows to a server, and whom it trusts: a token, TLS, a certificate of its own."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from counterhint.addresses import stays_here
from counterhint.errors import InputError

Metadata = tuple[tuple[str, str], ...]

AUTHORIZATION, SCHEME = "authorization", "Bearer"
"""The header that carries a token, and what stands before it (RFC 6750)."""


@dataclass(frozen=True)
class Credentials:
    """How a client proves who it is.

    Files are read again for every connection and the token's for every call, so that both can be
    replaced under a client that runs.

    Raises:
        InputError: two tokens, or parts of a certificate.
    """

    token: str | None = field(default=None, repr=False)
    """The token itself."""
    token_file: Path | None = None
    """The file whose only content is the token, in its place."""
    tls_ca: Path | None = None
    """Certificates (PEM) of the authorities that the server's must come from; they turn TLS on."""
    tls_cert: Path | None = None
    """This client's own certificate chain (PEM), for servers that ask for one."""
    tls_key: Path | None = None
    """The key of `tls_cert` (PEM, not encrypted)."""
    insecure: bool = False
    """Whether the token may leave this machine in plaintext."""
    named: Callable[[str], str] = field(default=str, repr=False, compare=False)
    """What the user calls a field, for messages: the flag or the key of a recipe."""

    def __post_init__(self) -> None:
        if self.token is not None and self.token_file is not None:
            raise InputError(
                f"{self.named('token')} and {self.named('token_file')} are both given: give one"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("cert", "key") if self.tls_cert else ("key", "cert")
            raise InputError(
                f"{self.named(f'tls_{given}')} goes with {self.named(f'tls_{missing}')}: give both"
            )
        if self.tls_cert is not None and self.tls_ca is None:
            raise InputError(
                f"{self.named('tls_cert')} needs {self.named('tls_ca')}, the authority of the "
                "server's certificate"
            )

    @classmethod
    def from_environment(cls) -> Self:
        """Those of `COUNTERHINT_TOKEN` or `COUNTERHINT_TOKEN_FILE`, `COUNTERHINT_TLS_CA`, `…_CERT`,
        `…_KEY`, and `COUNTERHINT_INSECURE=1`."""

        def named(name: str) -> str:
            return f"COUNTERHINT_{name.upper()}" + ("=1" if name == "insecure" else "")

        def path(name: str) -> Path | None:
            value = os.environ.get(named(name))
            return Path(value) if value else None

        return cls(
            token=os.environ.get(named("token")) or None,
            token_file=path("token_file"),
            tls_ca=path("tls_ca"),
            tls_cert=path("tls_cert"),
            tls_key=path("tls_key"),
            insecure=os.environ.get("COUNTERHINT_INSECURE") == "1",
            named=named,
        )

    def check(self, address: str) -> None:
        """Refuses to send a token in plaintext beyond this machine.

        Raises:
            InputError: that, or the token cannot be read.
        """
        if not self.metadata() or self.tls_ca is not None or self.insecure or stays_here(address):
            return
        name = self.named("token_file" if self.token_file else "token")
        raise InputError(
            f"{name} would go to {address} in plaintext: give {self.named('tls_ca')}, the "
            f"authority of the server's certificate, or {self.named('insecure')} when the network "
            "is private"
        )

    def metadata(self) -> Metadata:
        """The headers of a call.

        Raises:
            InputError: the token cannot be read, or is none. The text never holds it.
        """
        token, name = self.token, self.named("token")
        if self.token_file is not None:
            name = f"{self.named('token_file')} {self.token_file}"
            token = read_file(self.token_file, self.named("token_file")).decode("latin-1").strip()
        if token is None:
            return ()
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise InputError(
                f"{name} holds no token: give what `counterhint tokens new` printed, and no more"
            )
        return ((AUTHORIZATION, f"{SCHEME} {token}"),)

    def tls(self) -> grpc.ChannelCredentials | None:
        """The certificates as gRPC takes them; None without TLS.

        Raises:
            InputError: a file cannot be read.
        """
        if self.tls_ca is None:
            return None
        authorities = read_file(self.tls_ca, self.named("tls_ca"))
        if self.tls_cert is None or self.tls_key is None:
            return grpc.ssl_channel_credentials(authorities)
        return grpc.ssl_channel_credentials(
            authorities,
            read_file(self.tls_key, self.named("tls_key")),
            read_file(self.tls_cert, self.named("tls_cert")),
        )


NO_CREDENTIALS = Credentials()
"""Plaintext without a token: to servers on this machine."""


def read_file(path: Path, name: str) -> bytes:
    """The content of a file that the user named.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{name} {path} cannot be read: {error.strerror}") from error
