"""What all gRPC methods share: how errors leave, where versions are compared.

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

from .. import __version__, versions
from ..errors import ERROR_METADATA_KEY, Internal, TangramError
from ..errors import status_name as status_name_of
from ..managers.errors import ManagerError
from ..versions import CLIENT_VERSION_KEY, SERVER_VERSION_KEY
from .answers import error_message
from .failures import from_manager

log = logging.getLogger(__name__)

STATUS_DETAILS_BYTES_MAX = 4096
"""Of a refusal's sentence: it travels in HTTP/2 headers, of which a peer takes 8 KiB or so."""

Context = ServicerContext[Any, Any]

_Service = TypeVar("_Service")
_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


def method(
    handler: Callable[[_Service, _Request, Context], Awaitable[_Answer]],
) -> Callable[[_Service, _Request, Context], Awaitable[_Answer]]:
    """Every gRPC method, unary or streaming: versions are compared first, and what it raises
    becomes a status with our details.

    Streaming methods write through the context, so that their end is the end of one coroutine.
    """

    @functools.wraps(handler)
    async def call(service: _Service, request: _Request, context: Context) -> _Answer:
        try:
            if _check_version(context):
                await context.send_initial_metadata(((SERVER_VERSION_KEY, __version__),))
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


def _check_version(context: Context) -> bool:
    """Refuse a client that is too far apart. Returns whether it asks for our version.

    Raises FailedPrecondition, InvalidRequest.
    """
    asked = False
    for key, value in context.invocation_metadata() or ():
        if key == CLIENT_VERSION_KEY:
            client = value if isinstance(value, str) else value.decode()
            versions.check(client, __version__, key)
        elif key == SERVER_VERSION_KEY:
            asked = True
    return asked


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
