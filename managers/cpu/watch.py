"""The disk of running sandboxes, looked at now and then, where nothing harder limits it.

Says which runs are to end; ending them is the manager's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from ..base import Lease, Outcome
from ..errors import ManagerError
from .held import HeldSandbox

log = logging.getLogger(__name__)

WATCH_PERIOD_S = 2.0
"""Between two looks. A walk over a large checkout takes tens of milliseconds of one core."""


class DiskWatch:
    """A task that lives while anything runs."""

    def __init__(
        self,
        held: Callable[[], Collection[HeldSandbox]],
        kill: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._held = held
        self._kill = kill
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Something runs from now on."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="watch the sandboxes' disk")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while any(held.runs for held in self._held()):
            await asyncio.sleep(WATCH_PERIOD_S)
            for held in list(self._held()):
                if held.runs and await self._is_over(held):
                    await self._end_runs(held)

    async def _is_over(self, held: HeldSandbox) -> bool:
        sandbox, limit = held.sandbox, held.spec.disk_bytes
        if sandbox is None or limit is None or sandbox.limits["disk"] == "hard":
            return False
        try:
            return await sandbox.disk_used_bytes() > limit
        except (OSError, ManagerError) as problem:
            # Files vanish while they are counted, and so may the whole sandbox.
            log.info("the disk of %s is not known: %s", held.spec.trajectory, problem)
            return False

    async def _end_runs(self, held: HeldSandbox) -> None:
        for run in list(held.runs.values()):
            run.verdict = Outcome.OUT_OF_DISK
            if lease := held.leases.get(run.token):
                await self._kill(lease)
