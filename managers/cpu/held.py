"""One trajectory's sandbox while the node holds it: its leases, its runs, its confinement.

Pure bookkeeping but for `confine`, which makes the sandbox's cores those of its leases. The manager
owns these; they know nothing of the pool of cores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ..base import Lease, Outcome, RunResult, SandboxSpec
from ..errors import SandboxClosed, SandboxDied
from .sandbox.base import MemoryEvents, Sandbox

ENDS_WHOLE = frozenset({Outcome.OUT_OF_MEMORY, Outcome.TOO_MANY_PROCESSES})
"""Of a command that a limit ended, the rest is killed too: it would keep what was too much. What
times out or is killed takes its whole tree with it anyway."""


@dataclass(slots=True)
class Run:
    """A run under way. `verdict` is set by whoever kills it for a reason of the command's own."""

    action: str
    token: int
    verdict: Outcome | None = None
    before: MemoryEvents | None = None
    """The limits' counters when it began."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False, weakref_slot=True)
class HeldSandbox:
    """`lock` orders what changes its cores: acquire, resize, release."""

    spec: SandboxSpec
    on_lost: Callable[[str], None]
    sandbox: Sandbox | None = None
    """None while it starts."""
    start: asyncio.Task[Sandbox] | None = None
    closing: asyncio.Task[None] | None = None
    lost: str = ""
    leases: dict[int, Lease] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    """The tokens of leases whose run has ended, until they are given back."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    file_calls: int = 0

    @property
    def state(self) -> str:
        if self.sandbox is None:
            return "starting"
        return "running" if self.leases else "idle"

    def live(self) -> Sandbox:
        """The sandbox, to be used now. Raises SandboxDied, SandboxClosed."""
        if self.lost:
            raise SandboxDied(f"the sandbox of {self.spec.trajectory!r} is gone: {self.lost}")
        if self.sandbox is None or self.closing is not None:
            raise SandboxClosed(f"trajectory {self.spec.trajectory!r} has no open sandbox")
        return self.sandbox

    async def confine(self) -> None:
        """Give the sandbox the cores of all its leases, or park it."""
        cores = sorted({core for lease in self.leases.values() for core in lease.cores})
        await self.live().confine(tuple(cores) or None)

    @contextmanager
    def file_call(self) -> Iterator[Sandbox]:
        """A parked sandbox serves files at full weight: a file call takes no cores."""
        sandbox = self.live()
        self.file_calls += 1
        if self.file_calls == 1 and not self.leases:
            sandbox.boost(True)
        try:
            yield sandbox
        finally:
            self.file_calls -= 1
            # With a lease it has full weight for the lease's sake.
            if not self.file_calls and not self.leases and not self.lost and not self.closing:
                sandbox.boost(False)


def judge(
    result: RunResult, verdict: Outcome | None, before: MemoryEvents, after: MemoryEvents
) -> RunResult:
    """Why a run ended, from what its agent saw, why it was killed, and the limits' counters.

    A counter alone proves nothing: what the command survived (exit code 0) or what another action
    of the same sandbox did must not turn a success into a failure.
    """
    # The counter is the sandbox's highest ever: it tells of this run only if this run raised it.
    peak = after.peak_bytes if after.peak_bytes > before.peak_bytes else result.peak_memory_bytes
    outcome = result.outcome
    if verdict is not None and outcome is Outcome.KILLED:
        outcome = verdict
    elif outcome is Outcome.FINISHED and result.exit_code != 0:
        if after.oom_kills > before.oom_kills:
            outcome = Outcome.OUT_OF_MEMORY
        elif after.pids_refused > before.pids_refused:
            outcome = Outcome.TOO_MANY_PROCESSES
    return replace(result, outcome=outcome, peak_memory_bytes=peak)
