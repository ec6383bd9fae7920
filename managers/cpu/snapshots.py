"""Kept files of a node's sandboxes: who may keep them, how much there may be, and putting them back.

How files are kept is each launcher's; here stands what is the same for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..base import KeptFiles
from ..errors import ManagerError, PermanentError, TemporaryError
from ..sizes import format_size
from .held import HeldSandbox
from .launchers import Launchers
from .sandbox.base import Launcher, Sandbox

log = logging.getLogger(__name__)

Start = Callable[[HeldSandbox, str], Awaitable[Sandbox]]
"""Starts another sandbox for the trajectory, from kept files of this id."""


class Snapshots:
    """The kept files of one node, by their ids."""

    def __init__(self, launchers: Launchers, disk_bytes: int) -> None:
        """`disk_bytes` is all that sandboxes and kept files together may take."""
        self._launchers = launchers
        self._disk_bytes = disk_bytes
        self._kept: dict[str, Launcher] = {}

    def size_bytes(self) -> int:
        """On disk, of all kept files and of what forks share."""
        return sum(launcher.kept_bytes() for launcher in self._launchers.built())

    async def keep(
        self, held: HeldSandbox, snapshot: str, limit_bytes: int, others_bytes: int
    ) -> KeptFiles:
        """`others_bytes` is what the node's sandboxes take. Raises as `SandboxHost.keep_files`."""
        if snapshot in self._kept:
            raise PermanentError(f"files are kept by the id {snapshot!r} already", field="snapshot")
        async with held.lock:
            sandbox = held.live()
            if held.spec.concurrency == 1:
                self._refuse_while_running(held, "kept or forked")
            left = self._disk_bytes - self.size_bytes() - others_bytes
            if left <= 0:
                raise PermanentError(
                    f"the sandboxes and kept files of this node take its whole disk of "
                    f"{format_size(self._disk_bytes)}: drop snapshots or close trajectories",
                    field="disk",
                )
            files = await sandbox.keep_files(snapshot, min(limit_bytes, left))
        self._kept[snapshot] = self._launchers.get(sandbox.launcher)
        return KeptFiles(files.size_bytes, files.skipped)

    async def discard(self, snapshot: str) -> None:
        launcher = self._kept.pop(snapshot, None)
        if launcher is not None:
            await launcher.discard_files(snapshot)

    async def restore(self, held: HeldSandbox, snapshot: str, start: Start) -> None:
        """Put another sandbox, started from the kept files, in the place of the one there is. It
        is started first, so that nothing is lost if that fails."""
        if snapshot not in self._kept:
            raise PermanentError("the files to restore are not there any more", field="snapshot")
        async with held.lock:
            old = held.live()
            self._refuse_while_running(held, "restored")
            fresh = await start(held, snapshot)
            try:
                held.live()  # It may have died or been closed meanwhile.
                if fresh.channel.lost.done():
                    raise TemporaryError("the sandbox with the restored files died at once")
            except ManagerError:
                await fresh.aclose()
                raise
            held.sandbox = fresh
            held.start = _done(fresh)
            try:
                await asyncio.shield(old.aclose())
            except ManagerError as problem:
                # Its launcher tries again when it closes; nothing leads to that sandbox any more.
                log.warning("the former sandbox of %s: %s", held.spec.trajectory, problem)

    def _refuse_while_running(self, held: HeldSandbox, what: str) -> None:
        # A run that has ended may have told so before its lease is given back.
        for lease in held.leases.values():
            if lease.token in held.ended:
                continue
            raise PermanentError(
                f"the files cannot be {what} while action {lease.action!r} runs in this trajectory: "
                "wait for its end or cancel it",
                field="trajectory",
            )


def _done(sandbox: Sandbox) -> asyncio.Task[Sandbox]:
    async def started() -> Sandbox:
        return sandbox

    return asyncio.create_task(started())
