"""Cores of leases, looked at now and then: what somebody else changed is put right, and counted.

systemd writes the values that it knows at every `daemon-reload`, and so does `docker update`; a lease
whose cores are not its own is a wrong measurement at best.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection

from .held import HeldSandbox

log = logging.getLogger(__name__)

PERIOD_S = 3.0
"""Between two looks at a sandbox with a lease: three reads, a twentieth of a millisecond."""


class DriftWatch:
    """One task, that lives while there are any sandboxes. It shares the event loop with whoever
    changes cores, so that none of them sees half of a change."""

    def __init__(self, held: Callable[[], Collection[HeldSandbox]]) -> None:
        self.corrected: Counter[str] = Counter()
        """How often each control file had to be put right."""
        self._held = held
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There is a sandbox from now on."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="watch the sandboxes' cores")

    async def aclose(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        while held := list(self._held()):
            for each in held:
                await asyncio.sleep(PERIOD_S / len(held))
                self._look(each)

    def _look(self, held: HeldSandbox) -> None:
        # Whoever holds the lock changes them right now.
        if held.sandbox is None or not held.leases or held.closing or held.lock.locked():
            return
        try:
            files = held.sandbox.put_right()
        except OSError as problem:
            log.info("the cores of %s are not known: %s", held.spec.trajectory, problem)
            return
        if files:
            log.warning(
                "sandbox of %s: %s had been changed by somebody else, and is put right",
                *(held.spec.trajectory, ", ".join(files)),
            )
            self.corrected.update(files)
