"""What managers raise and the scheduler decides, as the errors that clients see: one table each."""

from __future__ import annotations

from ..errors import (
    Cancelled,
    Expired,
    FailedPrecondition,
    FileError,
    Infeasible,
    Internal,
    Lost,
    NotFound,
    ProviderUnavailable,
    Reason,
    SandboxFailed,
    TangramError,
    TrajectoryClosed,
    Unavailable,
    Unsupported,
)
from ..managers import errors as managers
from ..scheduler import End, EndReason

_BY_MANAGER_ERROR: tuple[tuple[type[managers.ManagerError], type[TangramError], Reason], ...] = (
    # The first match wins: subclasses stand before their bases.
    (managers.UnknownImage, NotFound, Reason.UNKNOWN_IMAGE),
    (managers.Unsupported, Unsupported, Reason.UNSUPPORTED),
    (managers.PermanentError, FailedPrecondition, Reason.FAILED_PRECONDITION),
    (managers.BackingOff, SandboxFailed, Reason.SANDBOX_FAILED),
    (managers.TemporaryError, Unavailable, Reason.UNAVAILABLE),
    (managers.LeaseLost, Lost, Reason.LOST),
    (managers.SandboxClosed, TrajectoryClosed, Reason.TRAJECTORY_CLOSED),
)

_BY_END_REASON: dict[EndReason, tuple[type[TangramError], Reason]] = {
    EndReason.INFEASIBLE: (Infeasible, Reason.INFEASIBLE),
    EndReason.UNKNOWN_RESOURCE: (NotFound, Reason.UNKNOWN_QUOTA),
    EndReason.CANCELLED: (Cancelled, Reason.CANCELLED),
    EndReason.EXPIRED: (Expired, Reason.EXPIRED),
    EndReason.TRAJECTORY_CLOSED: (Cancelled, Reason.CANCELLED),
    EndReason.SANDBOX_FAILED: (SandboxFailed, Reason.SANDBOX_FAILED),
    EndReason.LOST: (Lost, Reason.LOST),
}


def from_manager(
    error: managers.ManagerError, *, action_id: str = "", kind: str = ""
) -> TangramError:
    """The client's error for what a manager raised, at an action of a kind if there was one."""
    if kind == "call" and isinstance(error, managers.TemporaryError):
        return ProviderUnavailable(str(error), action_id=action_id, retry_after=error.delay_s)
    if isinstance(error, managers.FileProblem):
        return FileError(f"{error.code}: {error}", reason=Reason.FILE, field="path")
    for manager_error, client_error, reason in _BY_MANAGER_ERROR:
        if isinstance(error, manager_error):
            return client_error(
                str(error),
                reason=reason,
                field=error.field if isinstance(error, managers.PermanentError) else "",
                action_id=action_id,
                retry_after=error.delay_s if isinstance(error, managers.TemporaryError) else None,
            )
    return Internal(str(error), action_id=action_id)


def from_end(end: End, kind: str) -> TangramError:
    """The client's error for an action of a kind (exec, call, permit) that the scheduler ended."""
    client_error, reason = _BY_END_REASON[end.reason]
    field = ""
    if end.reason is EndReason.UNKNOWN_RESOURCE:
        field = "quota"
    elif end.reason is EndReason.INFEASIBLE:
        field = "cores" if kind == "exec" else "amount"
    return client_error(end.message, reason=reason, field=field, action_id=end.action)
