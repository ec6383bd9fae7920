"""One container with its agent: what happens to a Docker sandbox between its start and its end.

Cores and counters go straight to the container's cgroup, in microseconds; only where that cannot be
seen from here do they go through the engine. How a container is made is in `docker`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from ...base import SandboxSpec
from ...errors import PermanentError, SandboxDied, TemporaryError
from ..cgroup import SandboxCgroup
from ..cores import format_cores
from .base import MemoryEvents, Sandbox
from .channel import Channel
from .docker_client import DockerEngine
from .docker_layers import PART, can_stand_on_layers
from .folder import disk_used_bytes
from .freezing import frozen
from .layers import Files, LayerStore, Origin, Still, too_much
from .online import OnlineFile
from .starting import limit_memory


class DockerSandbox(Sandbox):
    """A started container. Built by the launcher, which hands over by `own` how to undo it."""

    launcher = "docker"

    def __init__(
        self,
        *,
        engine: DockerEngine,
        container: str,
        workdir: str,
        settle: Callable[[DockerSandbox, SandboxSpec], Awaitable[None]],
        left: Callable[[str], None],
        limits: Mapping[str, str],
        channel: Channel,
        cgroup: SandboxCgroup | None,
        parking: tuple[int, ...],
        upper_folder: str,
        mounted_files: tuple[str, ...],
        volumes: tuple[str, ...],
        online: Path,
        image: str,
        store: LayerStore,
        origin: Origin,
        labels: Mapping[str, str],
    ) -> None:
        """`labels` mark what belongs to this server; `settle` is the launcher's part of handing it
        over, and `left` is told the trajectory when it has ended."""
        self.trajectory = ""
        self.workdir = workdir
        self.limits = limits
        self.channel = channel
        self.container = container
        self._engine = engine
        self._settle = settle
        self._left = left
        self._cgroup = cgroup
        self._parking = parking
        self._upper_folder = upper_folder
        self._mounted_files = mounted_files
        self._volumes = volumes
        self._image = image
        self._store = store
        self._origin = origin
        self._labels = labels
        self._copying = asyncio.Lock()
        self._online = OnlineFile(online, parking)
        self._parked = True
        self._stack = AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._on_lost: Callable[[str], None] = lambda message: None

    def own(self, stack: AsyncExitStack, on_lost: Callable[[str], None]) -> None:
        """From now on `aclose` unwinds the stack, and a loss before that is told, once."""
        self._stack = stack
        self._on_lost = on_lost
        self._watch = asyncio.create_task(self._report_loss())

    async def assign(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> None:
        self.trajectory = spec.trajectory
        self._stack.callback(self._left, spec.trajectory)
        self.workdir = spec.workdir or self.workdir
        try:
            if spec.memory_bytes:
                await self._limit_memory(spec.memory_bytes)
            await self._settle(self, spec)
        except SandboxDied as problem:
            reason = await why_ended(self._engine, self.container)
            raise SandboxDied(f"the container ended: {reason or problem}") from problem
        if self.channel.lost.done():
            raise SandboxDied(self.channel.lost.result())
        self._on_lost = on_lost

    async def _limit_memory(self, memory_bytes: int) -> None:
        if self._cgroup is None:
            await self._engine.set_memory(self.container, memory_bytes)
        else:
            limit_memory(self._cgroup, memory_bytes)

    async def confine(self, cores: tuple[int, ...] | None) -> None:
        visible = self._parking if cores is None else cores
        try:
            if self._cgroup is None:
                quota = None if cores is None else len(cores)
                await self._engine.set_cores(self.container, format_cores(visible), quota)
            elif cores is None:
                self._cgroup.park(self._parking)
            else:
                self._cgroup.set_cores(cores)
            self._online.show(cores)
        except (OSError, PermanentError) as problem:
            raise SandboxDied(
                f"the container of trajectory {self.trajectory} is gone: {problem}"
            ) from problem
        self._parked = cores is None

    def put_right(self) -> tuple[str, ...]:
        return self._cgroup.put_right() if self._cgroup is not None else ()

    def boost(self, on: bool) -> None:
        if self._cgroup is None or not self._parked:
            return
        try:
            self._cgroup.boost(on)
        except OSError:
            # The container just died; whoever waits for the file call learns it from the channel.
            return

    def events(self) -> MemoryEvents:
        if self._cgroup is None:
            return MemoryEvents()
        return MemoryEvents(
            oom_kills=self._cgroup.oom_kills(),
            pids_refused=self._cgroup.pids_refused(),
            peak_bytes=self._cgroup.peak_memory_bytes(),
        )

    async def disk_used_bytes(self) -> int:
        if os.access(self._upper_folder, os.R_OK | os.X_OK):
            roots = map(Path, (self._upper_folder, *self._mounted_files))
            return await asyncio.to_thread(disk_used_bytes, roots)
        return await self._engine.written_bytes(self.container)

    async def keep_files(self, name: str, limit_bytes: int) -> Files:
        async with self._copying:
            if self._closing is not None:
                raise SandboxDied(f"the container of trajectory {self.trajectory} is gone")
            if not can_stand_on_layers(self._upper_folder, self._store.folder):
                files = await self._commit(name, limit_bytes)
            elif self._cgroup is not None and self._cgroup.can_freeze:
                group = self._cgroup
                files = await self._capture(name, limit_bytes, lambda: frozen(0, group))
            else:
                await self._engine.pause(self.container, True)
                try:
                    files = await self._capture(name, limit_bytes, lambda: nullcontext(set()))
                finally:
                    await self._engine.pause(self.container, False)
        skipped = tuple(f"{volume}: a volume is not kept" for volume in self._volumes)
        return replace(files, skipped=(*skipped, *files.skipped))

    async def _capture(self, name: str, limit_bytes: int, still: Still) -> Files:
        return await self._store.capture(
            name,
            self._origin,
            {PART: Path(self._upper_folder)},
            still,
            image=self._image,
            uid=None,
            limit_bytes=limit_bytes,
        )

    async def _commit(self, name: str, limit_bytes: int) -> Files:
        """Where the files cannot be reached from here; the engine copies all that was written."""
        written = await self._engine.written_bytes(self.container)
        if written > limit_bytes:
            raise too_much(limit_bytes)
        image_id = await self._engine.commit(self.container, self._labels)
        return self._store.add_image(name, self._image, image_id, written)

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # A caller that is cancelled must not leave a container half removed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        async with self._copying:  # Held still, nothing of it could be killed.
            self._online.close()
            if self._cgroup is not None:
                self._cgroup.close()
            await self._stack.aclose()

    async def _report_loss(self) -> None:
        said = await asyncio.shield(self.channel.lost)
        try:
            # The engine notices a little later than we that the agent ended.
            await self._engine.wait_end(self.container)
            reason = await why_ended(self._engine, self.container)
        except (PermanentError, TemporaryError) as problem:
            reason = str(problem)
        if self._closing is None:
            self._on_lost(f"the sandbox of trajectory {self.trajectory} died: {reason or said}")


async def why_ended(engine: DockerEngine, container: str) -> str:
    """A sentence on how a container ended; "" if it still runs."""
    facts = await engine.container(container)
    if facts is None or facts.removing:
        return "its container was removed"
    if facts.running:
        return ""
    if facts.oom_killed:
        return "the kernel killed its agent for memory: give the trajectory more memory"
    return f"its agent ended with exit code {facts.exit_code}"
