"""Disk and memory of sandboxes, looked at now and then, where nothing harder limits them.

Says which runs and which sandboxes are to end; ending them is the manager's.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ..base import Lease, Outcome, SandboxSpec
from ..errors import ManagerError
from ..sizes import format_size
from .held import HeldSandbox
from .memory_use import memory_used_bytes
from .sandbox.base import Sandbox

log = logging.getLogger(__name__)

WATCH_PERIOD_S = 2.0
"""Between two looks at a sandbox where something runs. A walk over a large checkout takes tens of
milliseconds of one core."""

IDLE_PERIOD_S = 10.0
"""Between two looks at one where nothing does: only what a command left behind can write there."""

TIDY_S = 10.0
"""For the client to remove files once its command was ended for them, before the sandbox is ended."""

MEMORY_PERIOD_S = 0.25
"""As `WATCH_PERIOD_S`, for memory, which fills faster and is counted in a fraction of a millisecond
per process."""

MEMORY_IDLE_PERIOD_S = 2.0


@dataclass(frozen=True, slots=True)
class _Excess:
    """What was found when a sandbox's runs were ended, and when on the loop's clock."""

    used_bytes: int
    found_at: float


class Watch(ABC):
    """Two tasks, for sandboxes with runs and without, that live while there are any sandboxes."""

    limit: str
    """Its name in a sandbox's limits."""
    outcome: Outcome
    """Of the runs that it ends."""

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
        self._used: WeakKeyDictionary[HeldSandbox, int] = WeakKeyDictionary()

    @abstractmethod
    def periods_s(self) -> tuple[float, float]:
        """Between two looks at a sandbox where nothing runs, and where something does."""

    @abstractmethod
    def tidy_s(self) -> float:
        """For a sandbox to have room again once its runs were ended, before it is ended itself."""

    @abstractmethod
    def limit_bytes(self, spec: SandboxSpec) -> int | None:
        """What it may use."""

    @abstractmethod
    async def used_bytes(self, sandbox: Sandbox, limit_bytes: int) -> int:
        """What it uses now. Raises OSError, ManagerError where that is not known."""

    def is_too_much(self, held: HeldSandbox, used_bytes: int, limit_bytes: int) -> bool:
        """Whether this sandbox is to use less."""
        return used_bytes > limit_bytes

    def total_bytes(self) -> int:
        """What all sandboxes used when they were last looked at."""
        return sum(self._used.get(held, 0) for held in self._held())

    @abstractmethod
    def sentence(self, used_bytes: int, limit_bytes: int) -> str:
        """Why a sandbox is ended, and what would be right."""

    def wake(self, sandbox: Sandbox) -> None:
        """There is this sandbox from now on."""
        if sandbox.limits[self.limit] != "soft":
            return
        for running, period_s in enumerate(self.periods_s()):
            task = self._tasks.get(bool(running))
            if task is None or task.done():
                self._tasks[bool(running)] = asyncio.create_task(
                    self._watch(bool(running), period_s), name=f"watch the sandboxes' {self.limit}"
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
        limit = self.limit_bytes(held.spec)
        used = None if limit is None else await self._used_bytes(held, limit)
        if limit is None or used is None:
            return
        self._used[held] = used
        if not self.is_too_much(held, used, limit):
            self._excesses.pop(held, None)
            return
        known, now = self._excesses.get(held), asyncio.get_running_loop().time()
        if known is None and held.runs:
            self._excesses[held] = _Excess(used, now)
            await self._end_runs(held)
        elif known is None or used > known.used_bytes or now - known.found_at >= self.tidy_s():
            # Nothing that a client could end by itself takes it, or it does not make room.
            await self._destroy(held, self.sentence(used, limit))

    async def _used_bytes(self, held: HeldSandbox, limit_bytes: int) -> int | None:
        """None if it is not to be limited here, or not known now."""
        sandbox = held.sandbox
        if sandbox is None or held.closing is not None or sandbox.limits[self.limit] != "soft":
            return None
        try:
            return await self.used_bytes(sandbox, limit_bytes)
        except (OSError, ManagerError) as problem:
            # Files and processes vanish while they are counted, and so may the whole sandbox.
            log.info("the %s of %s is not known: %s", self.limit, held.spec.trajectory, problem)
            return None

    async def _end_runs(self, held: HeldSandbox) -> None:
        for run in list(held.runs.values()):
            run.verdict = self.outcome
            if lease := held.leases.get(run.token):
                await self._kill(lease)


class DiskWatch(Watch):
    """The files of sandboxes: of each its own, and all together with what is kept of them."""

    limit = "disk"
    outcome = Outcome.OUT_OF_DISK

    def __init__(
        self,
        held: Callable[[], Collection[HeldSandbox]],
        kill: Callable[[Lease], Awaitable[None]],
        destroy: Callable[[HeldSandbox, str], Awaitable[None]],
        *,
        cap_bytes: int,
        kept_bytes: Callable[[], int],
    ) -> None:
        """`cap_bytes` is for all sandboxes and what `kept_bytes` says is kept of them."""
        super().__init__(held, kill, destroy)
        self._cap_bytes = cap_bytes
        self._kept_bytes = kept_bytes

    def is_too_much(self, held: HeldSandbox, used_bytes: int, limit_bytes: int) -> bool:
        if super().is_too_much(held, used_bytes, limit_bytes):
            return True
        if self.total_bytes() + self._kept_bytes() <= self._cap_bytes:
            return False
        # All together take too much: it is the largest that has to make room.
        return used_bytes == max(self._used.get(other, 0) for other in self._held())

    def periods_s(self) -> tuple[float, float]:
        return IDLE_PERIOD_S, WATCH_PERIOD_S

    def tidy_s(self) -> float:
        return TIDY_S

    def limit_bytes(self, spec: SandboxSpec) -> int | None:
        return spec.disk_bytes

    async def used_bytes(self, sandbox: Sandbox, limit_bytes: int) -> int:
        return await sandbox.disk_used_bytes()

    def sentence(self, used_bytes: int, limit_bytes: int) -> str:
        if used_bytes <= limit_bytes:
            return (
                f"all sandboxes and kept files take more than the {format_size(self._cap_bytes)} of "
                f"disk that the node has for them, and its files the most ({used_bytes} bytes): "
                "remove files, or drop snapshots"
            )
        return (
            f"its files take {used_bytes} bytes, more than the disk of {format_size(limit_bytes)} "
            "that it has: ask for more, or remove files and end background processes in time"
        )


class MemoryWatch(Watch):
    """The memory of all processes of a sandbox together."""

    limit = "memory"
    outcome = Outcome.OUT_OF_MEMORY

    def periods_s(self) -> tuple[float, float]:
        return MEMORY_IDLE_PERIOD_S, MEMORY_PERIOD_S

    def tidy_s(self) -> float:
        return 0.0  # What its runs held went with them.

    def limit_bytes(self, spec: SandboxSpec) -> int | None:
        return spec.memory_bytes

    async def used_bytes(self, sandbox: Sandbox, limit_bytes: int) -> int:
        root = sandbox.root_pid()
        return await asyncio.to_thread(memory_used_bytes, root, limit_bytes) if root else 0

    def sentence(self, used_bytes: int, limit_bytes: int) -> str:
        return (
            f"its processes hold {used_bytes} bytes, more than the memory of "
            f"{format_size(limit_bytes)} that it has: ask for more, or end background processes "
            "in time"
        )
