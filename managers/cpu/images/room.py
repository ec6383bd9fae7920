"""Room on the engine's disk: measured, and made by evicting images that Tangram pulled.

Which go, and in what order, is `eviction`'s.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable

from ...errors import ManagerError
from ..sandbox.docker_client import DockerEngine, ImageInUse
from .eviction import DiskUse, Evictable, Watermarks, eviction_order
from .ledger import Ledger

log = logging.getLogger(__name__)

DiskUses = Callable[[], Awaitable[DiskUse | None]]
"""Measures the disk; None where it cannot be seen from here."""


class Room:
    """Evicts. One eviction at a time; all methods belong to one event loop."""

    def __init__(
        self,
        engine: DockerEngine,
        ledger: Ledger,
        watermarks: Watermarks,
        measure: DiskUses,
        candidates: Callable[[], Awaitable[list[Evictable]]],
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._watermarks = watermarks
        self._measure = measure
        self._candidates = candidates
        self._evicting = asyncio.Lock()

    async def make(self, *, by_force: bool = False) -> int:
        """Evict until the low watermark is reached if the high one is exceeded, or, `by_force`, at
        least one image if there is one; how many went."""
        async with self._evicting:
            use = await self._measure()
            if not by_force and (use is None or not self._watermarks.exceeded(use)):
                return 0
            evicted = 0
            for image_id in eviction_order(await self._candidates()):
                enough = use is None or self._watermarks.reached(use)
                if enough and (evicted or not by_force):
                    break
                evicted += await self._evict(image_id)
                use = await self._measure()
            if use is not None and self._watermarks.exceeded(use):
                log.warning(
                    "the disk with the images is %.0f %% full, and no image is left to evict",
                    use.fraction * 100,
                )
            return evicted

    async def _evict(self, image_id: str) -> bool:
        entry = self._ledger.get(image_id)
        if entry is None:
            return False
        try:
            for name in entry.names:
                image = await self._engine.image(name)
                if image is not None and image.id == image_id:
                    await self._engine.remove_image(name)
        except ImageInUse as problem:
            log.info("image %s stays: %s", entry.names[0], problem)
            return False
        except ManagerError as problem:
            log.warning("image %s could not be removed: %s", entry.names[0], problem)
            return False
        log.info("image %s was evicted", entry.names[0])
        self._ledger.remove(image_id)
        return True


def disk_of(engine: DockerEngine) -> DiskUses:
    """Measures the file system of the engine's own folder, if it is on this machine."""
    folder: str | None = None

    async def measure() -> DiskUse | None:
        nonlocal folder
        if folder is None:
            folder = (await engine.facts()).folder
        if not engine.url.startswith("unix://"):
            return None
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, folder)
        except OSError:
            return None  # An engine in a virtual machine, or a folder that only it may see.
        # What only root may use counts as used: the engine's layers may not need it, others do.
        return DiskUse(usage.total - usage.free, usage.total)

    return measure
