"""Who sends a request: the bearer token of its `Authorization` header (RFC 6750)."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from counterhint.errors import PermissionDenied
from counterhint.tokens import Caller
from services.gateway.state import GatewayState

_BEARER = HTTPBearer(
    auto_error=False,
    description="A token made by `counterhint tokens new`, where the gateway asks for one.",
)


async def caller_of(
    request: Request,
    gateway: GatewayState,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Caller:
    """The caller of a request.

    Raises:
        Unauthenticated: tokens are asked for, and the request has none that is known.
    """
    return gateway.authentication.identify(request.headers.items())


AnyCaller = Annotated[Caller, Depends(caller_of)]
"""Whoever has a token that is known, as a parameter of a route."""


async def operator_of(caller: AnyCaller) -> Caller:
    """The caller, who may see every run.

    Raises:
        PermissionDenied: it is a run's token.
    """
    if caller.run is not None:
        raise PermissionDenied(
            f"the token is for the run {caller.run!r}; this takes an operator's",
            reason="OPERATORS_ONLY",
            details={"token": caller.run},
        )
    return caller


Operator = Annotated[Caller, Depends(operator_of)]
"""An operator, as a parameter of a route."""
