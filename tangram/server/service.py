"""What all gRPC methods share: how errors leave, how versions are compared, how services are added.

Methods themselves stand in `actions_service`, `trajectories_service` and `cluster_service`: each
checks, converts and calls the dispatcher, and decides nothing.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc.aio import ServicerContext

from .. import __version__
from ..errors import ERROR_METADATA_KEY, FailedPrecondition, Internal, InvalidRequest, TangramError
from ..errors import status_name as status_name_of
from ..managers.errors import ManagerError
from .answers import error_message
from .failures import from_manager

log = logging.getLogger(__name__)

STATUS_DETAILS_BYTES_MAX = 4096
"""Of a refusal's sentence: it travels in HTTP/2 headers, of which a peer takes 8 KiB or so."""

CLIENT_VERSION_KEY = "tangram-client-version"
"""Metadata in which a client names its version; absent is taken as compatible."""

Context = ServicerContext[Any, Any]

_Service = TypeVar("_Service")
_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


def method(
    handler: Callable[[_Service, _Request, Context], Awaitable[_Answer]],
) -> Callable[[_Service, _Request, Context], Awaitable[_Answer]]:
    """Every gRPC method, unary or streaming: what it raises becomes a status with our details.

    Streaming methods write through the context, so that their end is the end of one coroutine.
    """

    @functools.wraps(handler)
    async def call(service: _Service, request: _Request, context: Context) -> _Answer:
        try:
            return await handler(service, request, context)
        except Exception as error:
            await _refuse(context, public_error(error))
            raise  # never reached: abort raises

    return call


def public_error(error: Exception) -> TangramError:
    """The error that a client is told. A bug becomes Internal with the id of its log entry."""
    if isinstance(error, TangramError):
        return error
    if isinstance(error, ManagerError):
        return from_manager(error)
    log_id = uuid.uuid4().hex[:12]
    log.error("unexpected failure, log id %s", log_id, exc_info=error)
    return Internal(f"a bug in the server, which logged it as {log_id}: {type(error).__name__}")


async def _refuse(context: Context, error: TangramError) -> None:
    message = error_message(error)
    if len(message.message) > STATUS_DETAILS_BYTES_MAX // 4:
        message.message = message.message[: STATUS_DETAILS_BYTES_MAX // 4] + "..."
    await context.abort(
        grpc.StatusCode[status_name_of(error)],
        message.message,
        ((ERROR_METADATA_KEY, message.SerializeToString()),),
    )


def check_version(context: Context) -> None:
    """Refuse a client more than one minor version apart. Cheap: most calls hit the cache.

    Raises FailedPrecondition that says which side to upgrade.
    """
    for key, value in context.invocation_metadata() or ():
        if key == CLIENT_VERSION_KEY:
            refusal = _version_refusal(value if isinstance(value, str) else value.decode())
            if refusal is not None:
                raise refusal
            return


@functools.lru_cache(maxsize=64)
def _version_refusal(client: str) -> TangramError | None:
    try:
        client_major, client_minor = _major_minor(client)
    except ValueError:
        return InvalidRequest(
            f"{CLIENT_VERSION_KEY} must be a version such as {__version__}, not {client[:40]!r}",
            field=CLIENT_VERSION_KEY,
        )
    major, minor = _major_minor(__version__)
    if client_major == major and abs(client_minor - minor) <= 1:
        return None
    older = "client" if (client_major, client_minor) < (major, minor) else "server"
    return FailedPrecondition(
        f"the client is version {client}, the server {__version__}: they work one minor version "
        f"apart; upgrade the {older}",
        field=CLIENT_VERSION_KEY,
    )


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


class CallDeadline:
    """Tells a passed deadline from a client that went away: both reach a method as cancellation.

    The client's own clock may end the call a little before ours does, and gRPC rounds timeouts up
    by as much as one percent on their way.
    """

    SLACK_S = 0.05
    SLACK_SHARE = 0.01

    def __init__(self, context: Context) -> None:
        self._context = context
        self._given_s = context.time_remaining()

    def passed(self) -> bool:
        if self._given_s is None:
            return False
        remaining_s = self._context.time_remaining()
        slack_s = self.SLACK_S + self.SLACK_SHARE * self._given_s
        return remaining_s is not None and remaining_s <= slack_s
