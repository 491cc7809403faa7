"""The gateway's certificate while it serves: replaced files count, useless ones do not."""

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

from counterhint.certificates import ServerTls
from services.gateway import tls
from tests.certificates import Authority


async def certificate_of(port: int) -> bytes:
    """The certificate that a server shows, DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


def der_of(cert: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(cert.read_text())


def test_new_connections_get_the_certificate_of_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.01)
    authority = Authority(tmp_path, "ca")
    used, later = authority.issue("used"), authority.issue("later")
    files = ServerTls(used.cert, used.key)
    first, second = der_of(used.cert), der_of(later.cert)

    async def run() -> None:
        context = tls.tls_context(files)
        server = await asyncio.start_server(lambda _, writer: None, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        keeping = asyncio.create_task(tls.keep_current(files, context))
        async with asyncio.timeout(60.0):  # keeps a broken test from hanging
            await asyncio.sleep(0.05)  # the files were looked at
            used.key.write_text("no key")
            while "stays in force" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await certificate_of(port) == first
            with monkeypatch.context() as raced:  # replaced between the look and the loading
                raced.setattr(ServerTls, "check", lambda _: None)
                caplog.clear()
                used.key.write_text("no key either")
                while "stays in force" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            shutil.copy(later.cert, used.cert)
            shutil.copy(later.key, used.key)
            while await certificate_of(port) != second:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        keeping.cancel()
        server.close()

    asyncio.run(run())
