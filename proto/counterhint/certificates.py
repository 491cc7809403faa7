"""Certificates from files: checked before use, and read again by servers when they have changed.

Needs the extra `cli`.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from counterhint.credentials import Credentials, read_file
from counterhint.errors import InputError

log = logging.getLogger(__name__)

Content = tuple[bytes, ...]


def check_client_certificates(credentials: Credentials) -> None:
    """Refuses certificates that no server would take, before anything is started.

    Raises:
        InputError: one names the file and the flag: not there, no certificate, expired, or a key
            of another certificate.
    """
    named = credentials.named
    if credentials.tls_ca is not None:
        _load(credentials.tls_ca, named("tls_ca"))
    if credentials.tls_cert is not None and credentials.tls_key is not None:
        _check_pair(credentials.tls_cert, credentials.tls_key, named("tls_cert"), named("tls_key"))


@dataclass(frozen=True)
class ServerTls:
    """A server's certificate, and whether its clients need one.

    Raises:
        InputError: a file is not there, is no certificate, has expired, or the key is of
                another certificate.
    """

    cert: Path
    """The certificate chain, PEM, the server's own first."""
    key: Path
    """Its key, PEM, not encrypted."""
    client_ca: Path | None = None
    """Authorities of the clients' certificates, PEM; None when clients need none."""

    def __post_init__(self) -> None:
        self.check()

    def credentials(self) -> grpc.ServerCredentials:
        """The certificates as gRPC takes them.

        The files are read again for the next connection after they have changed; ones that cannot
        be used leave the former in force, and the log says so.
        """
        seen = self.read()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal seen
            try:
                content = self.read()
                if content == seen:
                    return None
                seen = content
                self.check()
            except InputError as error:
                log.error("%s; the certificates read before stay in force", error)
                return None
            log.info("--tls-cert %s: read again", self.cert)
            return _configuration(content)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(seen),
            fetch,  # type: ignore[arg-type]  # None is what gRPC documents for "no change"
            require_client_authentication=self.client_ca is not None,
        )

    def read(self) -> Content:
        """What the files hold.

        Raises:
            InputError: one cannot be read.
        """
        named = [(self.key, "--tls-key"), (self.cert, "--tls-cert")]
        if self.client_ca is not None:
            named.append((self.client_ca, "--tls-client-ca"))
        return tuple(read_file(path, flag) for path, flag in named)

    def check(self) -> None:
        """Refuses files that no client would take.

        Raises:
            InputError: a file is not there, is no certificate, has expired, or the key is of
                another certificate.
        """
        _check_pair(self.cert, self.key, "--tls-cert", "--tls-key")
        if self.client_ca is not None:
            _load(self.client_ca, "--tls-client-ca")


def _configuration(content: Content) -> grpc.ServerCertificateConfiguration:
    key, cert, *client_ca = content
    return grpc.ssl_server_certificate_configuration([(key, cert)], *client_ca)


def _check_pair(cert: Path, key: Path, cert_flag: str, key_flag: str) -> None:
    content = read_file(key, key_flag)
    try:
        private = load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:  # no key; encrypted
        raise InputError(f"{key_flag} {key} is no PEM key without a password: {error}") from error
    public = _load(cert, cert_flag)[0].public_key()
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != private.public_key().public_bytes(*form):
        raise InputError(
            f"{key_flag} {key} is not the key of {cert_flag} {cert}: give the pair that belongs "
            "together"
        )


def _load(path: Path, flag: str) -> list[x509.Certificate]:
    """The certificates of a file, the first of which must be valid now."""
    try:
        certificates = x509.load_pem_x509_certificates(read_file(path, flag))
    except ValueError as error:
        raise InputError(f"{flag} {path} is no PEM certificate: {error}") from error
    first, now = certificates[0], datetime.now(UTC)
    if now > first.not_valid_after_utc:
        raise InputError(
            f"{flag} {path} expired on {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
        )
    if now < first.not_valid_before_utc:
        raise InputError(
            f"{flag} {path} is valid from {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only: "
            "look at the clock, or at the certificate"
        )
    return certificates
