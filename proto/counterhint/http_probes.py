"""`/metrics`, `/health` and `/ready` over HTTP, from a thread of their own.

Needs `prometheus-client`.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from prometheus_client import MetricsHandler

from counterhint.addresses import check_address
from counterhint.errors import InputError

OPTION = "--metrics-listen"

Probe = Callable[[], str]
"""Says what is wrong; the empty string when nothing is."""


def check_http_address(listen: str, insecure: bool, option: str = OPTION) -> None:
    """Refuses an address that HTTP cannot or should not listen on.

    Args:
        listen: `host:port`.
        insecure: whether plaintext may leave this machine.
        option: what the user calls the address, for messages.

    Raises:
        InputError: as `check_address`, or a unix socket.
    """
    if listen.startswith("unix:"):
        raise InputError(f"{option} {listen}: HTTP has no unix socket here; give host:port")
    check_address(listen, insecure, option)


@contextmanager
def serve_probes(listen: str, health: Probe, ready: Probe, option: str = OPTION) -> Iterator[str]:
    """Answers while the block runs, even when the event loop does not; gives the address.

    Args:
        listen: `host:port`, checked; port 0 takes any free one.
        health: whether the process is worth keeping.
        ready: whether it does its work.
        option: what the user calls the address, for messages.

    Raises:
        InputError: the address cannot be found or bound.
    """

    class Handler(MetricsHandler):
        timeout = 10  # of a client that sends nothing

        def do_GET(self) -> None:  # noqa: N802
            path = self.path.partition("?")[0]
            if path == "/metrics":
                super().do_GET()
            elif path in probes:
                wrong = probes[path]()
                self._answer(503 if wrong else 200, {"status": wrong or "ok"})
            else:
                self._answer(
                    404, {"error": f"no such path; there are /metrics, {', '.join(probes)}"}
                )

        def _answer(self, status: int, content: dict[str, str]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    probes = {"/health": health, "/ready": ready}
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")

    try:

        class Server(ThreadingHTTPServer):
            address_family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]

        server = Server((host, int(port)), Handler)
    except OSError as error:
        raise InputError(f"{option} {listen} cannot be used: {error.strerror}") from error
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
