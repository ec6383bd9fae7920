"""The disk of sandboxes, looked at now and then, where nothing harder limits it.

Says which runs and which sandboxes are to end; ending them is the manager's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ..base import Lease, Outcome
from ..errors import ManagerError
from ..sizes import format_size
from .held import HeldSandbox

log = logging.getLogger(__name__)

WATCH_PERIOD_S = 2.0
"""Between two looks at a sandbox where something runs. A walk over a large checkout takes tens of
milliseconds of one core."""

IDLE_PERIOD_S = 10.0
"""Between two looks at one where nothing does: only what a command left behind can write there."""

TIDY_S = 10.0
"""For the client to remove files once its command was ended for them, before the sandbox is ended."""


@dataclass(frozen=True, slots=True)
class _Excess:
    """What was found when a sandbox's runs were ended, and when on the loop's clock."""

    used_bytes: int
    found_at: float


class DiskWatch:
    """Two tasks, for sandboxes with runs and without, that live while there are any sandboxes."""

    def __init__(
        self,
        held: Callable[[], Collection[HeldSandbox]],
        kill: Callable[[Lease], Awaitable[None]],
        destroy: Callable[[HeldSandbox, str], Awaitable[None]],
    ) -> None:
        self._held = held
        self._kill = kill
        self._destroy = destroy
        self._tasks: dict[bool, asyncio.Task[None]] = {}
        self._excesses: WeakKeyDictionary[HeldSandbox, _Excess] = WeakKeyDictionary()

    def wake(self) -> None:
        """There is a sandbox from now on."""
        for running, period_s in ((True, WATCH_PERIOD_S), (False, IDLE_PERIOD_S)):
            task = self._tasks.get(running)
            if task is None or task.done():
                self._tasks[running] = asyncio.create_task(
                    self._watch(running, period_s), name="watch the sandboxes' disk"
                )

    async def aclose(self) -> None:
        """Idempotent."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _watch(self, running: bool, period_s: float) -> None:
        while self._held():
            await asyncio.sleep(period_s)
            for held in list(self._held()):
                if bool(held.runs) is not running:
                    continue
                try:
                    await self._look(held)
                except ManagerError as problem:
                    # One that cannot be ended must not hide the others.
                    log.warning("sandbox of %s: %s", held.spec.trajectory, problem)

    async def _look(self, held: HeldSandbox) -> None:
        limit = held.spec.disk_bytes
        used = await self._used_bytes(held)
        if limit is None or used is None:
            return
        if used <= limit:
            self._excesses.pop(held, None)
            return
        known, now = self._excesses.get(held), asyncio.get_running_loop().time()
        if known is None and held.runs:
            self._excesses[held] = _Excess(used, now)
            await self._end_runs(held)
        elif known is None or used > known.used_bytes or now - known.found_at >= TIDY_S:
            # Nothing that a client could end by itself writes there, or it does not make room.
            await self._destroy(
                held,
                f"its files take {used} bytes, more than the disk of {format_size(limit)} that it "
                "has: ask for more, or remove files and end background processes in time",
            )

    async def _used_bytes(self, held: HeldSandbox) -> int | None:
        """None if it is not to be limited here, or not known now."""
        sandbox = held.sandbox
        if sandbox is None or held.closing is not None or sandbox.limits["disk"] != "soft":
            return None
        try:
            return await sandbox.disk_used_bytes()
        except (OSError, ManagerError) as problem:
            # Files vanish while they are counted, and so may the whole sandbox.
            log.info("the disk of %s is not known: %s", held.spec.trajectory, problem)
            return None

    async def _end_runs(self, held: HeldSandbox) -> None:
        for run in list(held.runs.values()):
            run.verdict = Outcome.OUT_OF_DISK
            if lease := held.leases.get(run.token):
                await self._kill(lease)
