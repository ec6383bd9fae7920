"""The images of one node, as its launcher and its manager see them.

Puts together: what a task means by a name (`resolutions`), finding and fetching (`finding`), one
pull for all who want it (`pulls`), what Tangram pulled (`ledger`), and room on the disk (`room`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...base import ImageInfo, Preparation, SandboxSpec
from ...config import PullConfig, RegistryConfig
from ...errors import ManagerError, TemporaryError, UnknownImage
from ..sandbox.docker_client import DockerEngine, ImageEntry, ImageFacts
from .credentials import Credentials
from .engine import RegistryRequests
from .eviction import Evictable, Watermarks
from .finding import Finder
from .ledger import Ledger
from .pulls import Pull, Pulls, PullState, Want
from .reference import digest_among, parse
from .refusals import DiskFull
from .resolutions import Resolutions, Resolved
from .retrying import Sleep
from .room import DiskUses, Room, disk_of
from .sharing import SharedWork

log = logging.getLogger(__name__)

OPEN_WAIT_S = 8.0
"""At Open, for a registry to say what a tag means. If it does not, the trajectory is accepted, and
the pull asks again."""

SETTLE_S = 10.0
"""A pulled image is not evicted in its first seconds, in which those who wanted it take it."""

FACTS_MAX = 1000
"""Images of which is remembered what the engine said."""

PULLING = "image-pull"
"""The reason of a sandbox that is prepared by pulling its image."""


@dataclass(slots=True)
class _Use:
    """One sandbox's image, from the start of its preparation to its end."""

    task: str
    name: str
    digest: str
    image_id: str
    wait_s: float


class ImageStore:
    """All methods belong to one event loop."""

    def __init__(
        self,
        engine: DockerEngine,
        state: Path,
        *,
        mapped: Mapping[str, str],
        registries: Mapping[str, RegistryConfig],
        config: PullConfig,
        requests: RegistryRequests | None = None,
        measure: DiskUses | None = None,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
        open_wait_s: float = OPEN_WAIT_S,
    ) -> None:
        """`mapped` are the names of `images:`; what they mean stays pinned."""
        self._engine = engine
        self._mapped = mapped
        self._policy = config.policy
        self._clock = clock
        self._open_wait_s = open_wait_s
        self._requests = requests or RegistryRequests(engine.address)
        credentials = Credentials(registries, engine.login)
        self._finder = Finder(engine, self._requests, credentials, mapped)
        self._ledger = Ledger(state / "images.json", unix_clock)
        self._resolutions = Resolutions()
        self._finding: SharedWork[Resolved] = SharedWork()
        self._pulls = Pulls(self._try, at_once=config.concurrency, sleep=sleep)
        watermarks = Watermarks(config.disk_high, config.disk_low)
        measure = measure or disk_of(engine)
        self._room = Room(engine, self._ledger, watermarks, measure, self._evictable)
        self._uses: dict[str, _Use] = {}
        """By trajectory, or by container while it is nobody's."""
        self._facts: dict[str, ImageFacts] = {}
        self._last_used: dict[str, float] = {}
        self._waiting: dict[str, Want] = {}
        self._prefetches: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._chores: set[asyncio.Task[int]] = set()

    # -- for one sandbox -------------------------------------------------------------------------

    async def check(self, spec: SandboxSpec) -> None:
        """Refuse at Open what can never be had, and settle what the task means by the name. A
        registry that is slow or fails for the moment refuses nothing."""
        name = self._reference(spec)
        try:
            async with asyncio.timeout(self._open_wait_s):
                await self._resolve(spec.task, name, spec.pull or self._policy)
        except (TemporaryError, TimeoutError) as problem:
            log.info("image %s is looked for again when it is needed: %s", name, problem)

    @asynccontextmanager
    async def prepared(self, spec: SandboxSpec) -> AsyncIterator[None]:
        """The spec's image is on the node and is not evicted inside. If that ends well it stays
        so until `leave`. Raises UnknownImage, PermanentError."""
        began = self._clock()
        try:
            image = await self._bring(
                spec.task, self._reference(spec), spec.pull or self._policy, spec.trajectory
            )
            self._enter(spec, image, self._clock() - began)
            yield
        except BaseException:
            self.leave(spec.trajectory)
            raise

    async def facts(self, spec: SandboxSpec) -> ImageFacts:
        """The image with which a sandbox is started, counted as in use until `leave`; nothing is
        pulled. Raises UnknownImage."""
        if (use := self._uses.get(spec.trajectory)) is not None:
            image = await self.known(use.image_id)
        else:
            resolved = await self._resolve(spec.task, self._reference(spec), "never")
            image = await self.known(resolved.image_id)
            if image is not None:
                self._enter(spec, resolved, 0.0)
        if image is None:
            raise UnknownImage(spec.image, f"image {spec.image} was removed from this node")
        return image

    async def known(self, image_id: str) -> ImageFacts | None:
        """An image by its id; None if it is not there. Of one that a sandbox uses, and that so cannot
        go, the engine is asked once: asking takes longer than handing over a started sandbox."""
        if image_id in self._facts and any(u.image_id == image_id for u in self._uses.values()):
            return self._facts[image_id]
        image = await self._engine.image(image_id)
        self._facts.pop(image_id, None)
        if image is not None:
            self._facts[image_id] = image
            if len(self._facts) > FACTS_MAX:
                del self._facts[next(iter(self._facts))]
        return image

    def hold(self, container: str, image_id: str) -> None:
        """A sandbox that is nobody's yet uses it, until `leave` or `pass_on`."""
        self._uses[container] = _Use("", "", "", image_id, 0.0)

    def pass_on(self, container: str) -> None:
        """Its trajectory uses the image from now on."""
        self._uses.pop(container, None)

    def leave(self, trajectory: str) -> None:
        """The sandbox is gone. Idempotent."""
        if (use := self._uses.pop(trajectory, None)) is None:
            return
        self._note_use(use.image_id)
        if use.name:
            self._resolutions.let_go(use.task, use.name, self._clock())
        chore = asyncio.get_running_loop().create_task(self._room.make())
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def digest(self, trajectory: str) -> str:
        """Of a sandbox's image; "" if it has none."""
        return use.digest if (use := self._uses.get(trajectory)) else ""

    def wait_s(self, trajectory: str) -> float:
        """How long its sandbox waited for its image."""
        return use.wait_s if (use := self._uses.get(trajectory)) else 0.0

    def preparing(self, trajectory: str) -> Preparation | None:
        """What its sandbox waits for now, if that is its image."""
        want = self._waiting.get(trajectory)
        pull = self._pulls.find(want) if want is not None else None
        if pull is None:
            return None
        return Preparation(PULLING, pull.progress.fraction, pull.describe())

    # -- for all ---------------------------------------------------------------------------------

    async def prefetch(self, task: str, names: Sequence[str]) -> list[ImageInfo]:
        """Bring these while nobody waits for them, and keep each until a sandbox uses it; how they
        stand now. What fails is told by `images`."""
        wanted = list(dict.fromkeys(self._mapped.get(name, name) for name in names))
        for name in wanted:
            key = (task, name)
            if key not in self._prefetches:
                fetching = asyncio.create_task(self._prefetch(task, name), name=f"fetch {name}")
                self._prefetches[key] = fetching
                fetching.add_done_callback(partial(self._fetched, key))
        known = {_canonical(info.name): info for info in await self.images()}
        return [known.get(_canonical(name)) or _queued(name) for name in wanted]

    async def images(self) -> list[ImageInfo]:
        """The images of the engine that have a name or that Tangram pulled, and the pulls."""
        entries = await self._engine.images()
        pinned, uses = self._pinned(entries), Counter(u.image_id for u in self._uses.values())
        infos = [
            self._info(entry, name, uses[entry.id], entry.id in pinned)
            for entry in entries
            for name in self._names(entry)
        ]
        here = {_canonical(info.name) for info in infos}
        coming = {_canonical(name): _queued(name) for _, name in self._prefetches}
        others = {name: info for name, info in coming.items() if name not in here}
        others |= {_canonical(pull.want.name): _of_pull(pull) for pull in self._pulls.all()}
        present = [info for info in infos if _canonical(info.name) not in others]
        return sorted([*present, *others.values()], key=lambda info: info.name)

    async def aclose(self) -> None:
        """End every pull. Idempotent."""
        for task in (*self._prefetches.values(), *self._chores):
            task.cancel()
        await self._pulls.aclose()
        await self._finding.aclose()
        if tasks := {*self._prefetches.values(), *self._chores}:
            await asyncio.wait(tasks)
        await self._requests.aclose()
        await asyncio.to_thread(self._ledger.save)

    # -- resolving and pulling -------------------------------------------------------------------

    async def _resolve(self, task: str, name: str, policy: str) -> Resolved:
        if (known := self._resolutions.get(task, name, self._clock())) is not None:
            return known
        found = await self._finding.join((name, policy), lambda: self._finder.find(name, policy))
        return self._resolutions.put(task, found, self._clock())

    async def _bring(self, task: str, name: str, policy: str, trajectory: str = "") -> Resolved:
        known = self._resolutions.get(task, name, self._clock())
        if known is not None and known.image_id:
            if await self.known(known.image_id) is not None:
                return known
            if known.digest == known.image_id or policy == "never":
                raise await self._finder.unknown(
                    name, f"{known.image_id}, which this task began with, was removed"
                )
        want = Want(name, known.digest if known is not None else "", policy)
        if trajectory:
            self._waiting[trajectory] = want
        try:
            brought = await self._pulls.bring(want)
        finally:
            self._waiting.pop(trajectory, None)
        settled = self._resolutions.put(task, brought, self._clock())
        if settled.image_id:
            return settled
        # Somebody else of the task asked the registry meanwhile, and was told another digest.
        return await self._bring(task, name, policy, trajectory)

    async def _try(self, pull: Pull) -> Resolved:
        want = pull.want
        found = Resolved(want.name, want.digest, "")
        if not want.digest:
            found = await self._finder.find(want.name, want.policy)
        if found.image_id:
            return found
        await self._room.make()
        before = {entry.id for entry in await self._engine.images()}
        try:
            image_id, names = await self._finder.fetch(
                want.name, found.digest, pull.progress, move_tag=want.policy == "always"
            )
        except DiskFull:
            await self._room.make(by_force=True)
            raise
        if image_id not in before or image_id in self._ledger:
            self._ledger.add(image_id, names)
        return Resolved(want.name, found.digest, image_id)

    async def _prefetch(self, task: str, name: str) -> None:
        try:
            brought = await self._bring(task, name, self._policy)
        except ManagerError as problem:
            log.warning("image %s was not fetched ahead: %s", name, problem)
        else:
            self._ledger.pin(brought.image_id)

    def _fetched(self, key: tuple[str, str], fetching: asyncio.Task[None]) -> None:
        del self._prefetches[key]

    # -- uses ------------------------------------------------------------------------------------

    def _enter(self, spec: SandboxSpec, image: Resolved, wait_s: float) -> None:
        if spec.trajectory in self._uses:
            return
        use = _Use(spec.task, image.name, image.digest, image.image_id, wait_s)
        self._uses[spec.trajectory] = use
        self._resolutions.hold(spec.task, image.name)
        self._note_use(image.image_id)

    def _note_use(self, image_id: str) -> None:
        self._last_used[image_id] = self._ledger.now()
        self._ledger.use(image_id)

    def _reference(self, spec: SandboxSpec) -> str:
        return self._mapped.get(spec.image, spec.image)

    async def _evictable(self) -> list[Evictable]:
        pinned = self._pinned(await self._engine.images())
        uses = Counter(use.image_id for use in self._uses.values())
        now = self._ledger.now()
        return [
            Evictable(
                entry.image_id,
                entry.last_used_unix_s,
                uses[entry.image_id],
                entry.image_id in pinned,
            )
            for entry in self._ledger
            if now - entry.last_used_unix_s >= SETTLE_S
        ]

    def _pinned(self, entries: Sequence[ImageEntry]) -> set[str]:
        kept = {_canonical(reference) for reference in self._mapped.values()}
        by_name = {e.id for e in entries if any(_canonical(n) in kept for n in self._names(e))}
        return by_name | {e.image_id for e in self._ledger if self._ledger.prefetched(e.image_id)}

    def _names(self, entry: ImageEntry) -> tuple[str, ...]:
        if entry.names or entry.id not in self._ledger:
            return entry.names
        return entry.repo_digests[:1]

    def _info(self, entry: ImageEntry, name: str, in_use: int, pinned: bool) -> ImageInfo:
        pulled = self._ledger.get(entry.id)
        used = pulled.last_used_unix_s if pulled is not None else self._last_used.get(entry.id)
        repository = parse(name).repository
        return ImageInfo(
            name=name,
            digest=digest_among(repository, entry.repo_digests) or entry.id,
            state="present",
            size_bytes=entry.size_bytes,
            in_use=in_use,
            pinned=pinned,
            pulled=pulled is not None,
            last_used_unix_s=used,
        )


def _canonical(name: str) -> str:
    """The same text for all spellings of a reference; what is none stays as it is."""
    try:
        return parse(name).wanted
    except ValueError:
        return name


def _queued(name: str) -> ImageInfo:
    return ImageInfo(name, "", PullState.QUEUED.value)


def _of_pull(pull: Pull) -> ImageInfo:
    return ImageInfo(
        pull.want.name,
        pull.want.digest,
        pull.state.value,
        fraction=pull.progress.fraction,
        message=pull.message,
    )
