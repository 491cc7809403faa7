"""What every route of the gateway works with."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from counterhint.authentication import Authentication
from services.gateway.run_folders import RunFolders
from services.gateway.tokenizer import Tokenizer
from services.queue.base import JobQueue
from services.submission import Submissions


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request, below those of the queue and the teacher."""

    body_bytes: int = 16 * 1024 * 1024
    """Largest body."""
    json_depth: int = 16
    """Deepest nesting of arrays and objects in a body."""
    requests: int = 256
    """Requests that are answered at a time; more are told to come back."""
    caller_requests: int = 64
    """Of these, those of one caller: of a token, and without a known one of a client's address."""


@dataclass(frozen=True)
class Gateway:
    """The gateway's parts; one for each application."""

    queue: JobQueue
    """Where jobs go, and where runs are looked up."""
    submissions: Submissions
    """Puts jobs on the queue and waits for them."""
    tokenizer: Tokenizer | None = None
    """The teacher's; None when the gateway was given none, and takes token ids only."""
    authentication: Authentication = field(default_factory=Authentication)
    """Whose tokens are taken."""
    runs: RunFolders | None = None
    """The folders of runs to show; None to show none."""
    limits: Limits = Limits()
    """Bounds of one request."""
    hosts: frozenset[str] | None = None
    """Names that the `Host` header may have; None for any. Set where the gateway listens on
    loopback, so that no page of another site reaches it by a name that resolves to 127.0.0.1."""


def gateway_of(request: Request) -> Gateway:
    """The gateway of the application that got the request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayState = Annotated[Gateway, Depends(gateway_of)]
"""The gateway, as a parameter of a route."""
