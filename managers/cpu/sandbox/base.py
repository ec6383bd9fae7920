"""The launcher interface: how sandboxes are started, and what a started one can do.

A launcher knows one way of isolating (bubblewrap, docker, process). A `Sandbox` is a live one; its
commands and file calls go over the `Channel` to its agent, its limits over its cgroup. Owner of both
is the CpuManager.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base import SandboxSpec
from ...errors import SandboxDied, TemporaryError, Unsupported
from .template import Template

if TYPE_CHECKING:
    from ..images.store import ImageStore
    from .channel import Channel
    from .layers import Files, LayerStore


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `tangram doctor`: what was tried, whether it works, and the line that mends it."""

    name: str
    ok: bool
    detail: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class MemoryEvents:
    """Counters of a sandbox's limits, read before and after a run to tell why it ended."""

    oom_kills: int = 0
    pids_refused: int = 0
    peak_bytes: int = 0


class Sandbox(ABC):
    """One live sandbox. Created by a launcher, neutral until it is assigned to a trajectory; used by
    the CpuManager alone."""

    trajectory: str
    launcher: str
    workdir: str
    limits: Mapping[str, str]
    channel: Channel

    @abstractmethod
    async def assign(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> None:
        """Hand it over to a trajectory, once: its memory limit, environment, folder, shell and user
        are set as if it had been started for it. `spec` is one of its template, with all sizes set.
        `on_lost` replaces the one of the start on return, not before.

        Raises SandboxDied if it is gone, PermanentError for what the trajectory asks and cannot have,
        TemporaryError; it is to be closed then."""

    @abstractmethod
    async def confine(self, cores: tuple[int, ...] | None) -> None:
        """Give it exactly these cores (cpuset, quota, full weight; the file behind `nproc` is
        rewritten). None parks it: the parking set with the least weight. 0.2 ms where the cgroup
        tree is writable."""

    def put_right(self) -> tuple[str, ...]:
        """Set again what `confine` and `boost` set, where somebody else changed it, and return the
        control files that differed. Cheap; raises OSError once it is gone."""
        return ()

    @abstractmethod
    def boost(self, on: bool) -> None:
        """Full weight while a file call is served although it is parked. Cheap, never raises."""

    @abstractmethod
    def events(self) -> MemoryEvents:
        """The limits' counters now; zeros where no cgroup counts."""

    @abstractmethod
    async def disk_used_bytes(self) -> int:
        """What its writable files take on disk now (walks them: not for the hot path)."""

    def root_pid(self) -> int | None:
        """The process that all of it descends from, as this machine sees it; None where it is not
        known, which is where the kernel limits its memory."""
        return None

    async def keep_files(self, name: str, limit_bytes: int) -> Files:
        """Keep its files as they are now, by a name that is new to its launcher; it stands still
        meanwhile. Raises Unsupported, PermanentError (more than `limit_bytes`), TemporaryError."""
        raise Unsupported(
            f"launcher {self.launcher} cannot keep or fork the files of a sandbox",
            cure="use launcher bubblewrap or docker",
        )

    @abstractmethod
    async def aclose(self) -> None:
        """Kill everything in it, remove its files and cgroups; gone on return. Idempotent."""


class Launcher(ABC):
    """One way of starting sandboxes."""

    name: str
    store: LayerStore | None = None
    """Of kept files, where it can keep them."""

    @abstractmethod
    async def checks(self) -> list[Check]:
        """What this launcher needs on this node, tried for real. It works if all are ok."""

    @abstractmethod
    def limits(self) -> Mapping[str, str]:
        """memory, disk, pids, shm, cores -> "hard", "soft" or "none", on this node."""

    @abstractmethod
    async def check_image(self, spec: SandboxSpec) -> None:
        """Raises UnknownImage or Unsupported if `start` of this spec can never work."""

    def prepared(self, spec: SandboxSpec) -> AbstractAsyncContextManager[None]:
        """Inside, what `start` of this spec needs and may take minutes to come (its image) is there.
        Raises TemporaryError, PermanentError."""
        return nullcontext()

    @property
    def images(self) -> ImageStore | None:
        """The images that it starts; None for a launcher without."""
        return None

    @abstractmethod
    def neutral(self, spec: SandboxSpec) -> SandboxSpec:
        """What `start_neutral` needs of a spec: without all that `assign` sets."""

    async def identity(self, spec: SandboxSpec) -> str:
        """What the image's name stands for now, which is there already. Asked at every Open, so it is
        quick. Raises as `check_image`."""
        await self.check_image(spec)
        return ""

    async def template(self, spec: SandboxSpec) -> Template:
        """Of which a sandbox for this spec can be. Raises as `check_image`."""
        return Template(self.name, self.neutral(spec), await self.identity(spec))

    @abstractmethod
    async def start_neutral(self, template: Template, on_lost: Callable[[str], None]) -> Sandbox:
        """Start a sandbox that is nobody's yet and wait for its agent. `on_lost(message)` once if it
        dies before `aclose`. Raises TemporaryError, PermanentError; leaves nothing behind then, or
        when cancelled."""

    async def start(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> Sandbox:
        """Start a sandbox for one trajectory (all sizes of the spec are set). Its files exist,
        those of `spec.snapshot` if it names one, and commands can run on return. Raises and cleans up as `start_neutral`."""
        sandbox = await self.start_neutral(await self.template(spec), lambda message: None)
        try:
            await sandbox.assign(spec, on_lost)
        except BaseException as error:
            await asyncio.shield(sandbox.aclose())
            if isinstance(error, SandboxDied):
                raise TemporaryError(f"the sandbox died while it started: {error}") from error
            raise
        return sandbox

    async def discard_files(self, name: str) -> None:
        """What `Sandbox.keep_files` kept by this name is needed no more. Sandboxes that stand on it
        are not harmed. Silent if there is none."""
        if self.store is not None:
            await self.store.discard(name)

    def kept_bytes(self) -> int:
        """What kept files take on disk."""
        return self.store.size_bytes if self.store is not None else 0

    @abstractmethod
    async def reap(self) -> int:
        """Remove what an earlier life of this server left (same name, same state folder), and
        return how many sandboxes that were."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close every sandbox that it started, then itself. Idempotent."""
