"""The fake node's images: those that it has, and registries whose pulls a test lets through.

It keeps the promises of a real node: a tag means one digest to a task, a pull is done once for all
who want it and ends when nobody does, a prefetched image is pinned until it is used.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field

from ..base import ImageInfo, Preparation, SandboxSpec
from ..errors import ManagerError, UnknownImage

IMAGE_BYTES = 100 << 20


@dataclass
class _Pull:
    task: asyncio.Task[None]
    wanted: int = 0


@dataclass
class FakeImages:
    """`present` are on the node (None: any name is), `registry` maps what can be pulled to the
    digest that the name means now: a test may change both."""

    node: str
    present: set[str] | None = None
    registry: MutableMapping[str, str] = field(default_factory=dict)
    meet: Callable[[str], Awaitable[None]] | None = None
    """Awaited by each pull, with the image: where a test lets it hang or fail."""
    pulls: Counter[str] = field(default_factory=Counter)
    """How often each was pulled."""

    def __post_init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._resolved: dict[tuple[str, str], str] = {}
        self._live: dict[str, _Pull] = {}
        self._failed: dict[str, str] = {}
        self._pinned: set[str] = set()
        self._waiting: dict[str, str] = {}
        self._uses: dict[str, str] = {}
        self._prefetches: set[asyncio.Task[None]] = set()

    def check(self, spec: SandboxSpec) -> None:
        """Raises UnknownImage."""
        if spec.image:
            self._resolve(spec)

    async def take(self, spec: SandboxSpec) -> str:
        """The digest, once the image is there; in use by the spec's trajectory until `leave`."""
        if not spec.image:
            return ""
        digest = self._resolve(spec)
        if not self._is_here(spec.image) or self._digest(spec.image) != digest:
            self._waiting[spec.trajectory] = spec.image
            try:
                await self._join(spec.image, digest)
            finally:
                del self._waiting[spec.trajectory]
        self._uses[spec.trajectory] = spec.image
        self._pinned.discard(spec.image)
        return digest

    def leave(self, trajectory: str) -> None:
        self._uses.pop(trajectory, None)

    def preparing(self, trajectory: str) -> Preparation | None:
        image = self._waiting.get(trajectory)
        return Preparation("image-pull", 0.5, f"{image} is being pulled") if image else None

    def prefetch(self, task: str, names: Sequence[str]) -> list[ImageInfo]:
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            fetching = asyncio.create_task(self._fetch(SandboxSpec("", task, name)))
            self._prefetches.add(fetching)
            fetching.add_done_callback(self._prefetches.discard)
        known = {info.name: info for info in self.all()}
        return [known.get(name) or ImageInfo(name, "", "queued") for name in wanted]

    def all(self) -> list[ImageInfo]:
        uses = Counter(self._uses.values())
        here = [
            ImageInfo(
                name,
                self._digest(name),
                "present",
                size_bytes=IMAGE_BYTES,
                in_use=uses[name],
                pinned=name in self._pinned,
                pulled=name in self.pulls,
            )
            for name in {*(self.present or ()), *self._digests, *uses}
            if name not in self._live
        ]
        coming = [ImageInfo(name, "", "pulling", fraction=0.5) for name in self._live]
        failed = [
            ImageInfo(name, "", "failed", message=why)
            for name, why in self._failed.items()
            if name not in self._live
        ]
        return sorted([*here, *coming, *failed], key=lambda info: info.name)

    async def aclose(self) -> None:
        tasks = {*self._prefetches, *(pull.task for pull in self._live.values())}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _fetch(self, spec: SandboxSpec) -> None:
        try:
            digest = self._resolve(spec)
            if not self._is_here(spec.image):
                await self._join(spec.image, digest)
        except ManagerError as problem:
            self._failed[spec.image] = str(problem)
        else:
            self._pinned.add(spec.image)

    def _resolve(self, spec: SandboxSpec) -> str:
        key = (spec.task, spec.image)
        if key not in self._resolved:
            asks = spec.pull == "always" or not self._is_here(spec.image)
            may_ask = asks and spec.pull != "never"
            if may_ask and spec.image in self.registry:
                self._resolved[key] = self.registry[spec.image]
            elif self._is_here(spec.image):
                self._resolved[key] = self._digest(spec.image)
            else:
                raise UnknownImage(spec.image, f"there is no image {spec.image!r} on {self.node}")
        return self._resolved[key]

    async def _join(self, name: str, digest: str) -> None:
        pull = self._live.get(name)
        if pull is None:
            pull = self._live[name] = _Pull(asyncio.create_task(self._pull(name, digest)))
        pull.wanted += 1
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.wanted -= 1
            if not pull.wanted and not pull.task.done():
                pull.task.cancel()
                await asyncio.wait([pull.task])

    async def _pull(self, name: str, digest: str) -> None:
        try:
            self.pulls[name] += 1
            if self.meet is not None:
                await self.meet(name)
            self._digests[name] = digest
            self._failed.pop(name, None)
            if self.present is not None:
                self.present.add(name)
        finally:
            del self._live[name]

    def _is_here(self, name: str) -> bool:
        return self.present is None or name in self.present

    def _digest(self, name: str) -> str:
        return self._digests.get(name) or digest_of(name)


def digest_of(text: str) -> str:
    """A digest that looks like a real one."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
