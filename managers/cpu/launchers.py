"""The launchers of one node: built when first needed, and which one starts a trajectory's sandbox.

Which classes these are is `assemble`'s to know; how each isolates is in `sandbox/`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..base import SandboxSpec
from ..config import NodeConfig
from ..errors import ManagerError, UnknownImage, Unsupported
from .sandbox.base import Check, Launcher
from .sandbox.template import Template

if TYPE_CHECKING:
    from .images.store import ImageStore

log = logging.getLogger(__name__)

RECHECK_S = 10.0
"""How long a failed check is believed. An operator who starts the engine need not restart us."""

REAP_WAIT_S = 30.0
"""For one launcher to remove leftovers, so that an engine that hangs does not hold up the start."""


class Builder(Protocol):
    """Where launchers come from: `assemble.LauncherBuilder`, and what tests put in its place."""

    def build(self, name: str) -> Launcher: ...

    def close(self) -> None: ...


class Launchers:
    """Owner of the node's launchers."""

    def __init__(self, config: NodeConfig, builder: Builder) -> None:
        self._config = config
        self._builder = builder
        self._built: dict[str, Launcher] = {}
        self._problems: dict[str, tuple[float, list[Check]]] = {}
        self._checking: dict[str, asyncio.Lock] = {}
        self.default = ""
        """What starts sandboxes without an image; known after `settle`."""

    def get(self, name: str) -> Launcher:
        if name not in self._built:
            self._built[name] = self._builder.build(name)
        return self._built[name]

    def built(self) -> list[Launcher]:
        """Those that were needed so far."""
        return list(self._built.values())

    def choose(self, spec: SandboxSpec) -> str:
        """The name of the launcher for this trajectory. Raises UnknownImage if the configured
        launcher could never have its image."""
        if self._config.launcher not in ("auto", "bubblewrap"):
            return self._config.launcher
        if not spec.image or is_rootfs(self._config.images.get(spec.image, "")):
            return "bubblewrap"
        if self._config.launcher == "auto":
            return "docker"
        raise UnknownImage(
            spec.image,
            f"launcher bubblewrap knows no image {spec.image!r}: map it to a folder with a root "
            "file system under `images:`, or use launcher docker",
        )

    async def working(self, name: str) -> Launcher:
        """The launcher, tried. Raises Unsupported with what is missing and the line that mends it."""
        launcher = self.get(name)
        failed = await self._failed_checks(launcher)
        if failed:
            reasons = "; ".join(f"{check.name}: {check.detail}" for check in failed)
            cures = "; ".join(dict.fromkeys(check.cure for check in failed if check.cure))
            raise Unsupported(f"launcher {name} does not work here: {reasons}", cure=cures)
        return launcher

    async def settle(self) -> None:
        """Find the default launcher. Raises Unsupported if none works that the configuration
        allows."""
        allowed = self.allowed()
        refusals: list[Unsupported] = []
        for name in allowed:
            try:
                await self.working(name)
            except Unsupported as refusal:
                refusals.append(refusal)
            else:
                self.default = name
                return
        others = [name for name in ("bubblewrap", "docker") if name not in allowed]
        for name in others:
            if not await self._failed_checks(self.get(name)):
                raise Unsupported(str(refusals[0]), cure=f"launcher {name} would work here")
        raise Unsupported(" | ".join(map(str, refusals)))

    def allowed(self) -> tuple[str, ...]:
        """The launchers that the configuration may ever use, the preferred one first."""
        if self._config.launcher == "auto":
            return ("bubblewrap", "docker")
        return (self._config.launcher,)

    async def template(self, spec: SandboxSpec) -> Template:
        """How the launcher for this trajectory would start its sandbox. Raises UnknownImage,
        Unsupported."""
        return await self.get(self.choose(spec)).template(spec)

    def prepared(self, spec: SandboxSpec) -> AbstractAsyncContextManager[None]:
        """Inside, what may take minutes to come is there: its image."""
        return self.get(self.choose(spec)).prepared(spec)

    def neutral(self, spec: SandboxSpec) -> tuple[str, SandboxSpec]:
        """The launcher for this trajectory, and its template but for what the image is now."""
        launcher = self.get(self.choose(spec))
        return launcher.name, launcher.neutral(spec)

    def image_stores(self) -> list[ImageStore]:
        """Those of the launchers that were used so far."""
        return [store for built in self._built.values() if (store := built.images) is not None]

    async def image_store(self) -> ImageStore:
        """Where images are pulled to. Raises Unsupported if nothing here starts images."""
        if "docker" not in self.allowed():
            raise Unsupported(
                f"launcher {self._config.launcher} pulls no images",
                cure="set launcher to auto or docker",
            )
        store = (await self.working("docker")).images
        assert store is not None
        return store

    async def reap(self) -> int:
        """Remove what an earlier life of this server left behind; how many sandboxes."""
        reaped = 0
        for name in self.allowed():
            try:
                async with asyncio.timeout(REAP_WAIT_S):
                    reaped += await self.get(name).reap()
            except (ManagerError, TimeoutError) as problem:
                # A launcher that does not work now must not keep the others from starting.
                log.info("nothing was reaped by launcher %s: %s", name, problem)
        return reaped

    async def aclose(self) -> None:
        """Close every launcher, and what they share. Idempotent. Raises what one of them raised,
        after all were asked to close."""
        closings = (launcher.aclose() for launcher in self._built.values())
        outcomes = await asyncio.gather(*closings, return_exceptions=True)
        await asyncio.to_thread(self._builder.close)
        for problem in filter(None, outcomes):
            raise problem

    async def _failed_checks(self, launcher: Launcher) -> list[Check]:
        """What does not work. A success is believed for good, a failure for RECHECK_S."""
        async with self._checking.setdefault(launcher.name, asyncio.Lock()):
            now = asyncio.get_running_loop().time()
            known = self._problems.get(launcher.name)
            if known is not None and (not known[1] or now - known[0] < RECHECK_S):
                return known[1]
            failed = [check for check in await launcher.checks() if not check.ok]
            self._problems[launcher.name] = (now, failed)
            return failed


def is_rootfs(mapped: str) -> bool:
    """Whether an entry of `images:` is a folder rather than a reference."""
    return mapped.startswith("/") and Path(mapped).is_dir()
