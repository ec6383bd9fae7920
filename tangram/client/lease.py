"""The task's lease: renewed in the background while anything of this client lives.

When no client of a task renews it, the server cancels the task's waiting actions and reaps its
sandboxes: a trainer that died leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging

from ..errors import TangramError
from ..v1 import trajectories_pb2
from .connection import Connection
from .methods import KEEP_ALIVE

log = logging.getLogger("tangram.client")

RENEWALS_PER_LEASE = 3
"""Two renewals may fail before it runs out."""


class LeaseKeeper:
    """Renews the lease of one task, from one process, on whichever loop holds something."""

    def __init__(self, connection: Connection, task: str, lease_s: float) -> None:
        self._connection = connection
        self._task = task
        self._lease_s = lease_s
        self._held: dict[asyncio.AbstractEventLoop, int] = {}
        self._renewals: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}

    @property
    def renewing(self) -> bool:
        """Whether it still asks from time to time, on any loop."""
        return bool(self._timers)

    def hold(self) -> None:
        """Something of the task lives from here on. Must be called on the event loop."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop, 0)
        self._held[loop] = held + 1
        if loop not in self._timers:
            self._renew(loop)

    def let_go(self) -> None:
        """It lives no more. The last renewal may still come; then they stop by themselves."""
        loop = asyncio.get_running_loop()
        self._held[loop] = max(0, self._held.get(loop, 0) - 1)

    def stop(self) -> None:
        """Renew no more on this loop. Idempotent."""
        loop = asyncio.get_running_loop()
        self._held.pop(loop, None)
        timer = self._timers.pop(loop, None)
        if timer is not None:
            timer.cancel()
        renewal = self._renewals.pop(loop, None)
        if renewal is not None:
            renewal.cancel()

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._held.get(loop):
            self._timers.pop(loop, None)
            return
        self._timers[loop] = loop.call_later(self._lease_s / RENEWALS_PER_LEASE, self._renew, loop)
        if loop not in self._renewals:
            renewal = self._renewals[loop] = loop.create_task(self._ask())
            renewal.add_done_callback(lambda _: self._renewals.pop(loop, None))

    async def _ask(self) -> None:
        request = trajectories_pb2.KeepAliveRequest(task=self._task, lease_s=self._lease_s)
        interval_s = self._lease_s / RENEWALS_PER_LEASE
        try:
            await self._connection.unary(
                KEEP_ALIVE, request, timeout_s=interval_s, patience_s=interval_s
            )
        except TangramError as error:
            # The calls of the client tell their caller; the next renewal tries again.
            log.warning("the lease of task %r was not renewed: %s", self._task, error)
