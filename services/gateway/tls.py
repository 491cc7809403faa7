"""TLS of the HTTP server, from the same files and flags as the gRPC servers'."""

import asyncio
import logging
import ssl

from counterhint.certificates import ServerTls
from counterhint.errors import InputError

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often it is looked whether the certificate has changed."""


def tls_context(tls: ServerTls) -> ssl.SSLContext:
    """The context of a server with these files; TLS 1.2 or newer.

    Raises:
        InputError: they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.client_ca)
    context.load_cert_chain(tls.cert, tls.key)
    return context


async def keep_current(tls: ServerTls, context: ssl.SSLContext) -> None:
    """Gives new connections the certificate of the day, for as long as it is not cancelled.

    Files that cannot be used leave the former in force, and the log says so. Authorities of clients
    are read at the start only.
    """
    seen = tls.read()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            content = tls.read()
            if content == seen:
                continue
            seen = content
            tls.check()
            context.load_cert_chain(tls.cert, tls.key)
        except (InputError, OSError) as error:  # they may be replaced once more meanwhile
            log.error("%s; the certificate read before stays in force", error)
        else:
            log.info("--tls-cert %s: read again", tls.cert)
