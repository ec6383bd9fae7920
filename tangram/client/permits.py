"""Permits of a quota in asynchronous code: waited for in order, held, given back."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from ..errors import FailedPrecondition, InfraError, TangramError
from ..v1 import actions_pb2, types_pb2
from . import requests
from .connection import Connection, tell
from .ids import new_id
from .lease import LeaseKeeper
from .methods import ACQUIRE, CANCEL, RELEASE
from .results import Timing, raise_failure, timing_from


class AsyncPermit:
    """`amount` units of a quota. `async with` waits for them and gives them back.

    It can be acquired again once it is given back; every acquiring is an action of its own. Of
    several permits, which may hold or wait at once, the server gives the oldest first.
    """

    def __init__(
        self, connection: Connection, lease: LeaseKeeper, spec: types_pb2.ActionSpec
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._spec = spec
        self._asked = False
        self._held = False
        self._giving_back: asyncio.Task[None] | None = None
        self.timing: Timing | None = None
        """How long it waited, once it is held."""

    @property
    def action_id(self) -> str:
        """Of the latest acquiring."""
        return self._spec.id

    async def acquire(self) -> None:
        """Wait until it is held. Raises NotFound (unknown quota), Infeasible, Expired, Cancelled,
        FailedPrecondition (it is held or waited for already)."""
        if self._asked:
            raise FailedPrecondition(
                f"permit {self.action_id} is held or waited for already: release it first, or ask "
                "for another one with quota()"
            )
        self._asked = True
        # The same id again would be the same action, which is over once its permit is given back.
        self._spec.id = new_id()
        self._lease.hold()
        try:
            request = actions_pb2.AcquireRequest(action=self._spec)
            action = (await self._connection.unary(ACQUIRE, request)).action
            if action.state != types_pb2.STATE_RUNNING:
                raise_failure(action)
                raise FailedPrecondition(
                    f"permit {self.action_id} was given back before it was held",
                    action_id=self.action_id,
                )
        except BaseException as error:
            self._over()
            if isinstance(error, asyncio.CancelledError):
                await cancel_action(self._connection, self.action_id, "the caller was cancelled")
            raise
        self.timing = timing_from(action.timing)
        self._held = True

    async def release(self) -> None:
        """Give it back. Idempotent. What is cancelled is the waiting for it, not the giving back;
        after an InfraError it is held still, and can be released again."""
        await self._release(None)

    async def report(self, *, retry_after: float) -> None:
        """Give it back and close the quota for `retry_after` seconds: the provider asked for it
        (HTTP 429). Waiters go on afterwards, in their order."""
        await self._release(requests.seconds_or_zero(retry_after, "retry_after"))

    async def _release(self, retry_after_s: float | None) -> None:
        if not self._held:
            return
        if self._giving_back is None:
            request = actions_pb2.ReleaseRequest(id=self.action_id, retry_after_s=retry_after_s)
            self._giving_back = asyncio.create_task(self._give_back(request))
        await asyncio.shield(self._giving_back)

    async def _give_back(self, request: actions_pb2.ReleaseRequest) -> None:
        try:
            await self._connection.unary(RELEASE, request)
        except InfraError:
            raise
        except TangramError:
            self._over()  # the server knows of no permit that is held
            raise
        else:
            self._over()
        finally:
            self._giving_back = None

    def _over(self) -> None:
        self._asked = self._held = False
        self._lease.let_go()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.release()


async def cancel_action(connection: Connection, action_id: str, reason: str) -> None:
    """Tell the server, since the end of a call ends no action."""
    await tell(connection, CANCEL, actions_pb2.CancelRequest(action=action_id, reason=reason))
