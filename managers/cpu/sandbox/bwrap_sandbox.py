"""One bubblewrap sandbox: what happens to it between its start and its end.

How it is started is in `bubblewrap`, whose launcher also takes it apart again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...base import SandboxSpec
from ...errors import SandboxDied
from ..cgroup import SandboxCgroup
from . import folder as folders
from . import rootfs
from .base import MemoryEvents, Sandbox
from .bwrap import BwrapProcess
from .channel import Channel
from .freezing import frozen
from .layers import Files, Origin
from .online import OnlineFile
from .starting import limit_memory

if TYPE_CHECKING:
    from .bubblewrap import Bubblewrap

SOCKETS_PREFIX = "b-"
"""Of our folders in the runtime folder, which other launchers use too."""
_GONE = (errno.ENOENT, errno.ENODEV)


class BubblewrapSandbox(Sandbox):
    """One sandbox. Filled in by `Bubblewrap.start_neutral`, step by step, so that a start that fails
    or is cancelled is undone by `aclose` at any step."""

    launcher = "bubblewrap"
    channel: Channel

    def __init__(
        self,
        owner: Bubblewrap,
        spec: SandboxSpec,
        uid: int,
        files: Files | None,
        on_lost: Callable[[str], None],
    ) -> None:
        """`files`, which it holds for as long as it lives, are what it starts from."""
        self.id = secrets.token_hex(5)
        self.trajectory = spec.trajectory
        self.image = spec.image
        self.origin = Origin(files)
        self.layers: tuple[Path, ...] = ()
        """What its writable folders stand on: nothing, or those of `files`."""
        if files is not None and not owner.flat:
            self.layers = tuple(layer.path for layer in files.layers)
        self.copying = asyncio.Lock()
        """While its files are copied it stands still, and cannot be ended."""
        self.workdir = rootfs.WORKSPACE
        self.limits = owner.limits()
        self.uid = uid
        self.folder = folders.SandboxFolder(owner.state, self.id)
        self.sockets = owner.runtime / f"{SOCKETS_PREFIX}{self.id}"
        self.process: BwrapProcess | None = None
        self.cgroup: SandboxCgroup | None = None
        self.online = OnlineFile(self.folder.path / "online", owner.parking)
        self._owner = owner
        self._on_lost = on_lost
        self._parked = True
        self._closing: asyncio.Task[None] | None = None

    async def assign(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> None:
        self.trajectory = spec.trajectory
        self.workdir = spec.workdir or rootfs.WORKSPACE
        if self.cgroup is not None and spec.memory_bytes:
            limit_memory(self.cgroup, spec.memory_bytes)
        await self.channel.configure(
            env={**base_env(bool(spec.image)), **spec.env},
            workdir=self.workdir,
            shell=spec.shell,
            user="",
        )
        if self.channel.lost.done():
            raise SandboxDied(self.channel.lost.result())
        self._on_lost = on_lost

    async def confine(self, cores: tuple[int, ...] | None) -> None:
        """Raises SandboxDied if it is gone."""
        try:
            self.apply_cores(cores)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise SandboxDied(f"the sandbox of {self.trajectory} is gone") from error

    def put_right(self) -> tuple[str, ...]:
        return self.cgroup.put_right() if self.cgroup is not None else ()

    def boost(self, on: bool) -> None:
        if self.cgroup is None or not self._parked:
            return
        # A file call is served all the same, only later.
        with contextlib.suppress(OSError):
            self.cgroup.boost(on)

    def events(self) -> MemoryEvents:
        if self.cgroup is None:
            return MemoryEvents()
        return MemoryEvents(
            oom_kills=self.cgroup.oom_kills(),
            pids_refused=self.cgroup.pids_refused(),
            peak_bytes=self.cgroup.peak_memory_bytes(),
        )

    async def disk_used_bytes(self) -> int:
        roots = rootfs.writable_folders(self.folder.path)
        return await asyncio.to_thread(folders.disk_used_bytes, roots)

    def root_pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    async def keep_files(self, name: str, limit_bytes: int) -> Files:
        async with self.copying:
            if self._closing is not None or self.process is None:
                raise SandboxDied(f"the sandbox of {self.trajectory} is gone")
            pid = self.process.pid
            return await self._owner.store.capture(
                name,
                self.origin,
                {part: self.folder.path / part for part in rootfs.parts_of(bool(self.image))},
                lambda: frozen(pid, self.cgroup),
                image=self.image,
                uid=self.uid,
                limit_bytes=limit_bytes,
                whole=not self.layers,
            )

    async def aclose(self) -> None:
        """Raises TemporaryError if something in it cannot be killed; it can be called again."""
        if self._closing is None or (self._closing.done() and self._closing.exception()):
            self._closing = asyncio.ensure_future(self._owner.close_sandbox(self))
        # Shared and shielded: a caller that goes away leaves no half-closed sandbox behind.
        await asyncio.shield(self._closing)

    def attach(self, channel: Channel) -> None:
        """The agent answered: from now on its end is reported."""
        self.channel = channel
        channel.lost.add_done_callback(self._report_lost)

    def apply_cores(self, cores: tuple[int, ...] | None) -> None:
        self._parked = cores is None
        if self.cgroup is not None and cores is None:
            self.cgroup.park(self._owner.parking)
        elif self.cgroup is not None and cores is not None:
            self.cgroup.set_cores(cores)
        self.online.show(cores)

    def _report_lost(self, lost: asyncio.Future[str]) -> None:
        if self._closing is None and not lost.cancelled():
            self._on_lost(lost.result())


def base_env(image: bool) -> dict[str, str]:
    return {
        "HOME": rootfs.HOME,
        "LANG": "C.UTF-8",
        "PATH": rootfs.search_path(image),
        "TMPDIR": "/tmp",
        "USER": rootfs.USER,
    }
