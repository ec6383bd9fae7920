"""The public error tree and the one table between errors and gRPC status codes.

What a command did is a Result, never an exception. What Tangram refused or failed at is one of:

TangramError
├── InvalidRequest         the request is wrong: `field` names what          (also ValueError)
│   └── TooLarge           a message or file above the limit
├── NotFound               no such action, trajectory, quota, image or file  (also LookupError)
├── AlreadyExists          the same id with another body
├── Infeasible             no node could ever meet the demand
├── FailedPrecondition     right request, wrong state
│   ├── TrajectoryClosed
│   ├── IdExpired          an id older than the horizon, never run
│   └── Unsupported        this server cannot do that here; the message names the cure
├── FileError              a file call that the sandbox refused              (also OSError)
├── Cancelled              somebody cancelled it
├── Expired                its deadline passed while it waited               (also TimeoutError)
├── CommandFailed          check=True and the command did not succeed; has `.result`
└── InfraError             ours or the machine's fault: mask or retry, never reward 0
    ├── Lost               its sandbox, node or lease is gone
    ├── SandboxFailed      the sandbox could not be started
    ├── Overloaded         a queue is full; try again after `retry_after`
    ├── Unavailable        the server cannot be reached                      (also ConnectionError)
    ├── ProviderUnavailable  what a call asked did not answer                (also ConnectionError)
    └── Internal           a bug in Tangram

Used by client and server alike; knows no gRPC objects, only status names. Never rebuilt from a class
name on the wire: `Reason` is what travels.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.results import Result


class Reason(StrEnum):
    """Why a call or an action failed. Values travel in `tangram.v1.Error.reason`."""

    INVALID = "invalid"
    TOO_LARGE = "too-large"
    NOT_FOUND = "not-found"
    UNKNOWN_IMAGE = "unknown-image"
    UNKNOWN_QUOTA = "unknown-quota"
    ALREADY_EXISTS = "already-exists"
    INFEASIBLE = "infeasible"
    FAILED_PRECONDITION = "failed-precondition"
    TRAJECTORY_CLOSED = "trajectory-closed"
    ID_EXPIRED = "id-expired"
    UNSUPPORTED = "unsupported"
    FILE = "file"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    COMMAND_FAILED = "command-failed"
    LOST = "lost"
    SANDBOX_FAILED = "sandbox-failed"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    PROVIDER_UNAVAILABLE = "provider-unavailable"
    INTERNAL = "internal"


class TangramError(Exception):
    """Root of all that Tangram raises. `str()` is a sentence that says what would be right."""

    default_reason = Reason.INTERNAL
    infra: bool = False
    """Tangram's or the machine's fault: the sample should be masked or retried."""
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        field: str = "",
        action_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.field = field
        self.action_id = action_id
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[TangramError], args: tuple[Any, ...], state: dict[str, Any]) -> TangramError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidRequest(TangramError, ValueError):
    """The request is wrong; `field` names what."""

    default_reason = Reason.INVALID


class TooLarge(InvalidRequest):
    default_reason = Reason.TOO_LARGE


class NotFound(TangramError, LookupError):
    default_reason = Reason.NOT_FOUND


class AlreadyExists(TangramError):
    default_reason = Reason.ALREADY_EXISTS


class Infeasible(TangramError):
    """No node could ever meet the demand; the message names the largest that could be met."""

    default_reason = Reason.INFEASIBLE


class FailedPrecondition(TangramError):
    default_reason = Reason.FAILED_PRECONDITION


class TrajectoryClosed(FailedPrecondition):
    default_reason = Reason.TRAJECTORY_CLOSED


class IdExpired(FailedPrecondition):
    default_reason = Reason.ID_EXPIRED


class Unsupported(FailedPrecondition):
    default_reason = Reason.UNSUPPORTED


class FileError(TangramError, OSError):
    """A file call that the sandbox refused: no such file, permission denied, is a directory."""

    default_reason = Reason.FILE


class Cancelled(TangramError):
    default_reason = Reason.CANCELLED


class Expired(TangramError, TimeoutError):
    default_reason = Reason.EXPIRED


class CommandFailed(TangramError):
    """`check=True` and the command did not finish with exit code 0."""

    default_reason = Reason.COMMAND_FAILED

    def __init__(self, message: str, *, result: Result, action_id: str = "") -> None:
        super().__init__(message, action_id=action_id)
        self.result = result


class InfraError(TangramError):
    """Ours or the machine's fault, not the command's: mask or retry, never reward 0."""

    infra = True


class Lost(InfraError):
    default_reason = Reason.LOST
    retryable = True


class SandboxFailed(InfraError):
    default_reason = Reason.SANDBOX_FAILED
    retryable = True


class Overloaded(InfraError):
    default_reason = Reason.OVERLOADED
    retryable = True


class Unavailable(InfraError, ConnectionError):
    default_reason = Reason.UNAVAILABLE
    retryable = True


class ProviderUnavailable(InfraError, ConnectionError):
    """The server is well, but what a call asked could not be reached or broke off."""

    default_reason = Reason.PROVIDER_UNAVAILABLE
    retryable = True


class Internal(InfraError):
    default_reason = Reason.INTERNAL


# The one table: reason -> (class, name of the gRPC status that carries it).
TABLE: dict[Reason, tuple[type[TangramError], str]] = {
    Reason.INVALID: (InvalidRequest, "INVALID_ARGUMENT"),
    Reason.TOO_LARGE: (TooLarge, "INVALID_ARGUMENT"),
    Reason.NOT_FOUND: (NotFound, "NOT_FOUND"),
    Reason.UNKNOWN_IMAGE: (NotFound, "NOT_FOUND"),
    Reason.UNKNOWN_QUOTA: (NotFound, "NOT_FOUND"),
    Reason.ALREADY_EXISTS: (AlreadyExists, "ALREADY_EXISTS"),
    Reason.INFEASIBLE: (Infeasible, "FAILED_PRECONDITION"),
    Reason.FAILED_PRECONDITION: (FailedPrecondition, "FAILED_PRECONDITION"),
    Reason.TRAJECTORY_CLOSED: (TrajectoryClosed, "FAILED_PRECONDITION"),
    Reason.ID_EXPIRED: (IdExpired, "FAILED_PRECONDITION"),
    Reason.UNSUPPORTED: (Unsupported, "FAILED_PRECONDITION"),
    Reason.FILE: (FileError, "FAILED_PRECONDITION"),
    Reason.CANCELLED: (Cancelled, "CANCELLED"),
    Reason.EXPIRED: (Expired, "DEADLINE_EXCEEDED"),
    Reason.LOST: (Lost, "ABORTED"),
    Reason.SANDBOX_FAILED: (SandboxFailed, "ABORTED"),
    Reason.OVERLOADED: (Overloaded, "RESOURCE_EXHAUSTED"),
    Reason.UNAVAILABLE: (Unavailable, "UNAVAILABLE"),
    # Not UNAVAILABLE, at which clients connect anew and ask again.
    Reason.PROVIDER_UNAVAILABLE: (ProviderUnavailable, "ABORTED"),
    Reason.INTERNAL: (Internal, "INTERNAL"),
}

ERROR_METADATA_KEY = "tangram-error-bin"
"""Trailing metadata that carries the serialised `tangram.v1.Error` beside a gRPC status."""


def from_reason(
    reason: str,
    message: str,
    *,
    field: str = "",
    action_id: str = "",
    retry_after: float | None = None,
) -> TangramError:
    """The exception for what came over the wire; an unknown reason (a newer server) is Internal."""
    known = Reason(reason) if reason in TABLE else Reason.INTERNAL
    error_class, _ = TABLE[known]
    return error_class(
        message, reason=known, field=field, action_id=action_id, retry_after=retry_after
    )


def from_status(status_name: str, message: str) -> TangramError:
    """The exception for a bare gRPC status, one without our metadata (a proxy, grpc itself)."""
    for reason, (error_class, name) in TABLE.items():
        if name == status_name:
            return error_class(message, reason=reason)
    return Internal(f"{status_name}: {message}")


def status_name(error: TangramError) -> str:
    """The gRPC status that carries this error."""
    return TABLE[error.reason][1] if error.reason in TABLE else "INTERNAL"
