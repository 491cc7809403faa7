"""Every error of the gateway in one form: a status, and `{"error": {…}, "request_id": …}`.

`error` holds what OpenAI's clients look for: `message`, `type` (one for each status), `param` (the
place in the request) and `code` (the stable reason of the contract's errors).
"""

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import grpc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from counterhint.errors import CounterhintError, Overloaded, UnknownFailure

_STATUS: dict[grpc.StatusCode, HTTPStatus] = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.UNPROCESSABLE_ENTITY,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.CANCELLED: HTTPStatus.CONFLICT,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
    504: "timeout_error",
}
_SERVER_ERROR = "server_error"
_MESSAGE_CHARACTERS, _PARAM_CHARACTERS = 2000, 200
"""Longer ones are cut, and say so: they may quote what the client sent."""


class HttpError(HTTPException):
    """An error that only HTTP knows: the wrong media type, too large a body, no such path."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry: float = 0.0
    ) -> None:
        super().__init__(status, message, _retry_header(retry))
        self.code = code
        self.param = param


class ErrorFacts(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The place in the request, where it is known.")
    code: str = Field(description="A stable upper-case reason; branch on it, not on the message.")


class ErrorReply(BaseModel):
    """The body of every error."""

    error: ErrorFacts
    request_id: str


ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": description}
    for status, description in {
        400: "The body is no JSON that can be taken.",
        401: "No token, or an unknown one.",
        403: "The token is another run's.",
        404: "No such job or run.",
        409: "Another tokenizer than the teacher's, or an id in use with other content.",
        413: "Larger than a bound.",
        415: "The body is not application/json.",
        422: "The request can never succeed as it is; `param` names the place.",
        429: "The queue is full, or the caller has too many requests under way: come back after "
        "`Retry-After` seconds.",
        500: "The engine gave no usable numbers.",
        503: "No teacher, or no queue: come back after `Retry-After` seconds.",
        504: "The time of the request was over before it had a result.",
    }.items()
}
"""The errors that a route may answer with, for the OpenAPI document."""


def status_of(error: CounterhintError) -> int:
    """The HTTP status of a typed error."""
    if isinstance(error, Overloaded):  # a bound that waiting does not help is the request's size
        return 429 if error.retry_after > 0 else 413
    return _STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR).value


def facts_of(error: CounterhintError | HttpError) -> dict[str, Any]:
    """The `error` object of an error."""
    if isinstance(error, HttpError):
        return _facts(error.status_code, error.detail, error.code, error.param)
    param = error.details.get("param") or error.details.get("where")
    return _facts(status_of(error), error.message, error.reason, param)


def error_response(error: CounterhintError | HttpError, request_id: str) -> JSONResponse:
    """The response that an error ends a request with."""
    if isinstance(error, HttpError):
        status, headers = error.status_code, dict(error.headers or {})
    else:
        status, headers = status_of(error), _retry_header(error.retry_after)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        {"error": facts_of(error), "request_id": request_id}, status, headers=headers
    )


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of an application leave it in the one form."""

    @app.exception_handler(CounterhintError)
    async def typed(request: Request, error: CounterhintError) -> JSONResponse:
        return error_response(error, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_from_validation(error.errors()), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if not isinstance(error, HttpError):
            code = HTTPStatus(error.status_code).name
            headers = error.headers
            error = HttpError(error.status_code, code, str(error.detail))
            error.headers = headers
        return error_response(error, request.state.request_id)


def internal_error() -> CounterhintError:
    """What a client is told about a fault of ours; the log has the rest."""
    return UnknownFailure(
        "the gateway failed; its log has the reason under this request id", reason="INTERNAL"
    )


def _from_validation(problems: Sequence[Any]) -> HttpError:
    """The first problem in full, and how many there are more."""
    first = problems[0]
    place = [str(part) for part in first["loc"]]
    place = [part for part in place if not part.startswith("<")]  # tags of our unions
    param = ".".join(place[1:] if place[0] in ("body", "query", "path", "header") else place)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    place_named = _cut(param, _PARAM_CHARACTERS) or "the body"
    message = f"{place_named}: {first['msg'].removeprefix('Value error, ')}{more}"
    return HttpError(422, "INVALID_REQUEST", message, param=param or None)


def _facts(status: int, message: str, code: str, param: str | None) -> dict[str, Any]:
    return {
        "message": _cut(message, _MESSAGE_CHARACTERS),
        "type": _TYPES.get(status, _SERVER_ERROR),
        "param": None if param is None else _cut(param, _PARAM_CHARACTERS),
        "code": code,
    }


def _cut(text: str, characters: int) -> str:
    more = len(text) - characters
    return f"{text[:characters]}… ({more} more characters)" if more > 0 else text


def _retry_header(seconds: float) -> dict[str, str]:
    """`Retry-After` takes whole seconds."""
    return {"Retry-After": str(math.ceil(seconds))} if seconds > 0 else {}
