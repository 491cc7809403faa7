"""Typed errors of the contract, and their two forms on the wire.

A unary call answers with a rich gRPC status (`google.rpc.ErrorInfo`, `RetryInfo`); on a stream and
in the queue the same facts travel as a `Failure` message. Clients branch on the class or on
`reason`, never on the text.
"""

from collections.abc import Mapping
from typing import ClassVar, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from counterhint.v1 import scoring_pb2

_MESSAGE_BYTES, _DETAIL_BYTES = 1000, 250
# A status travels in HTTP/2 headers, the message even twice, and gRPC drops those above 8 KiB.

LONGEST_DELAY = 1e9
"""Seconds: what a failure asks clients to wait beyond this is taken for nonsense."""
DOMAIN = "counterhint"
"""The `ErrorInfo.domain` of every error of ours."""


class InputError(ValueError):
    """Something that the user gave cannot be used: a flag, a recipe, a file, a model.

    The text names the thing, its value and the remedy. Command lines print it and exit with 2.
    """


class CounterhintError(Exception):
    """Base of every typed error: a gRPC code, a stable reason and the facts behind the text."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        details: Mapping[str, object] | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.details = {name: str(value) for name, value in (details or {}).items()}
        self.retry_after = retry_after
        """Seconds after which trying again makes sense; 0 when it does not."""


class InvalidJob(CounterhintError):
    """The request can never succeed as it is."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class Unauthenticated(CounterhintError):
    """The call carries no token that the server knows."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(CounterhintError):
    """The token is known, but not for this run."""

    code = grpc.StatusCode.PERMISSION_DENIED


class TokenizerMismatch(CounterhintError):
    """Student and teacher do not share a tokenizer."""

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(
        self, ours: str, teachers: str, remedy: str = "use a teacher with the student's tokenizer"
    ) -> None:
        super().__init__(
            f"the token ids were made with tokenizer {ours or '(none named)'}, but the teacher's "
            f"is {teachers}: {remedy}",
            reason="TOKENIZER_MISMATCH",
            details={"requested": ours, "teacher": teachers},
        )


class WeightsUnavailable(CounterhintError):
    """The weights that a job names cannot be used: not found, not allowed, damaged, other shape."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class JobConflict(CounterhintError):
    """A job id was used again with other content."""

    code = grpc.StatusCode.ALREADY_EXISTS


class JobNotFound(CounterhintError):
    """No job has this id."""

    code = grpc.StatusCode.NOT_FOUND


class Overloaded(CounterhintError):
    """A bound on size or number is reached; `retry_after` says when to come back, if ever."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(CounterhintError):
    """Nobody can score right now; trying again later makes sense."""

    code = grpc.StatusCode.UNAVAILABLE


ENGINE_DEAD, ENGINE_HANGING = "ENGINE_DEAD", "ENGINE_HANGING"
"""Reasons of `Unavailable` for jobs that were inside an engine when it was lost. One of them may be
what broke it, so each counts as a failed delivery; jobs that were not begun get another reason."""


class DeadlinePassed(CounterhintError):
    """The job's time was over before it had a result."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class JobCancelled(CounterhintError):
    """Somebody cancelled the job."""

    code = grpc.StatusCode.CANCELLED


class JobDeadLettered(CounterhintError):
    """The job failed on every try and was put aside."""

    code = grpc.StatusCode.ABORTED


class EngineFailure(CounterhintError):
    """The engine gave no usable numbers for this job."""

    code = grpc.StatusCode.INTERNAL


class UnknownFailure(CounterhintError):
    """An error whose code or reason this version does not know."""


_BY_REASON: dict[str, type[CounterhintError]] = {"TOKENIZER_MISMATCH": TokenizerMismatch}
_BY_CODE: dict[int, type[CounterhintError]] = {
    cls.code.value[0]: cls
    for cls in (
        InvalidJob,
        Unauthenticated,
        PermissionDenied,
        WeightsUnavailable,
        JobConflict,
        JobNotFound,
        Overloaded,
        Unavailable,
        DeadlinePassed,
        JobCancelled,
        JobDeadLettered,
        EngineFailure,
    )
}


def error_from_facts(
    code: int, message: str, reason: str, details: Mapping[str, str], retry_after: float
) -> CounterhintError:
    """The typed error for a gRPC status code (an integer) and the facts that came with it."""
    cls = _BY_REASON.get(reason) or _BY_CODE.get(code, UnknownFailure)
    error = cls.__new__(cls)
    CounterhintError.__init__(
        error, message, reason=reason, details=details, retry_after=retry_after
    )
    return error


def failure_to_message(error: CounterhintError) -> scoring_pb2.Failure:
    """The `Failure` message of an error."""
    return scoring_pb2.Failure(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        details=error.details,
        retry_after_seconds=error.retry_after,
    )


def failure_from_message(message: scoring_pb2.Failure) -> CounterhintError:
    """The typed error of a `Failure` message; a delay that is none, or too long, is left out."""
    delay = message.retry_after_seconds
    return error_from_facts(
        message.code,
        message.message,
        message.reason,
        dict(message.details),
        delay if 0 <= delay <= LONGEST_DELAY else 0.0,
    )


def error_to_status(error: CounterhintError) -> grpc.Status:
    """The rich gRPC status of an error, for `context.abort_with_status`.

    Very long texts are cut, and say so: a status that is too large would not arrive at all. NUL
    does not come through gRPC's own copy of the message, from which clients would then differ.
    """
    facts = {
        _shortened(name, _DETAIL_BYTES): _shortened(value, _DETAIL_BYTES)
        for name, value in error.details.items()
    }
    message = _shortened(error.message.replace("\0", "\\0"), _MESSAGE_BYTES)
    reason = _shortened(error.reason, _DETAIL_BYTES)
    details = [_packed(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=facts))]
    if error.retry_after > 0:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=error.code.value[0], message=message, details=details)
    return rpc_status.to_status(status)


def error_from_rpc(error: grpc.RpcError) -> CounterhintError:
    """The typed error behind a failed call, whoever answered: our server, gRPC or a proxy.

    A bare CANCELLED is gRPC's own, of a server that shuts down before it has begun the call: it
    says nothing about the job, and is `Unavailable`.
    """
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return UnknownFailure(str(error), reason="UNKNOWN")
    code: grpc.StatusCode = error.code()
    status = rpc_status.from_call(cast(grpc.Call, error))  # it only asks for the trailers
    if code is grpc.StatusCode.CANCELLED and status is None:
        return Unavailable(
            f"the call was cut off by the server: {error.details()}", reason="CALL_CUT_OFF"
        )
    reason, details, retry_after = code.name, dict[str, str](), 0.0
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, details = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return error_from_facts(
        code.value[0], error.details() or code.name, reason, details, retry_after
    )


def _shortened(text: str, most_bytes: int) -> str:
    kept = text.encode()[:most_bytes].decode(errors="ignore")
    left_out = len(text) - len(kept)
    return f"{kept}… ({left_out} more characters)" if left_out else text


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
