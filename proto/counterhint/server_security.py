"""How a gRPC server is secured: the flags that all servers share, and what they come to.

Needs the extra `cli`, grpcio-health-checking and grpcio-reflection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from counterhint.addresses import bound_address, check_address
from counterhint.authentication import Authentication
from counterhint.certificates import ServerTls
from counterhint.channel import SERVER_OPTIONS
from counterhint.command_line import Command
from counterhint.errors import InputError
from counterhint.grpc_server import make_server
from counterhint.malformed_messages import MalformedMessages
from counterhint.tokens import TokenFile


@dataclass(frozen=True)
class ServerSecurity:
    """Whom a server talks to, and how."""

    tls: ServerTls | None = None
    """None for plaintext."""
    authentication: Authentication = field(default_factory=Authentication)
    """Which tokens it takes."""
    insecure: bool = False
    """Whether plaintext may leave this machine."""

    def check(self, listen: str) -> None:
        """Refuses an address that cannot or should not be listened on.

        Raises:
            InputError: see `check_address`.
        """
        check_address(listen, self.insecure or self.tls is not None)

    def make_server(self) -> grpc.aio.Server:
        """A server with the contract's limits that asks for tokens before it parses anything."""
        return make_server(SERVER_OPTIONS, [self.authentication, MalformedMessages()])

    def bind(self, server: grpc.aio.Server, listen: str, services: Sequence[str]) -> str:
        """Makes a server listen; gives the address that clients use.

        Where tokens are asked for, reflection does not tell strangers what there is.

        Raises:
            InputError: the address cannot be bound.
        """
        if not self.authentication.asks:
            names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        try:
            if self.tls is None:
                port = server.add_insecure_port(listen)
            else:
                port = server.add_secure_port(listen, self.tls.credentials())
        except RuntimeError as error:
            raise InputError(f"--listen {listen}: the address cannot be bound") from error
        return bound_address(listen, port)


class SecuredServer(Command):
    """The flags of a command that serves gRPC."""

    tokens: Path | None = None
    """File of the tokens that callers need, made by `counterhint tokens new`; read again when it
    changes. Without it every caller is trusted."""
    tls_cert: Path | None = None
    """This server's certificate chain (PEM), for TLS; read again when it changes."""
    tls_key: Path | None = None
    """The key of --tls-cert (PEM, not encrypted)."""
    tls_client_ca: Path | None = None
    """Authorities (PEM) of the certificates that clients need; without it they need none."""
    insecure: bool = False
    """Permit plaintext on an address that is not this machine's loopback."""

    def security(self) -> ServerSecurity:
        """What the flags come to.

        Raises:
            InputError: a file cannot be used, or one of a pair is missing.
        """
        return ServerSecurity(
            self._tls(),
            Authentication(None if self.tokens is None else TokenFile(self.tokens)),
            self.insecure,
        )

    def _tls(self) -> ServerTls | None:
        if self.tls_cert is not None and self.tls_key is not None:
            return ServerTls(self.tls_cert, self.tls_key, self.tls_client_ca)
        if self.tls_cert is not None or self.tls_key is not None:
            given, missing = ("cert", "key") if self.tls_cert else ("key", "cert")
            raise InputError(f"--tls-{given} goes with --tls-{missing}: give both")
        if self.tls_client_ca is not None:
            raise InputError(
                f"--tls-client-ca {self.tls_client_ca} needs TLS: give --tls-cert and --tls-key"
            )
        return None
