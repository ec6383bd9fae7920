"""The owner of a node's sandboxes from their start until a trajectory has them.

Every start goes through here, so that storms are throttled per node: what trajectories wait for comes
first, oldest first, then sandboxes ahead of need. How many of these is `sizing`'s, how one is started
and handed over its launcher's; what happens to it afterwards the CpuManager's. A used sandbox never
comes back: a new start is as cheap as wiping one, and cannot leave anything behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from itertools import count

from ...base import SandboxSpec, WarmStatus
from ...errors import (
    LeaseLost,
    ManagerError,
    SandboxClosed,
    TemporaryError,
    UnknownImage,
    Unsupported,
)
from ..launchers import Launchers
from ..sandbox.base import Sandbox
from ..sandbox.template import Template
from .counts import Counts, ImageCounts
from .shelf import Shelf, Started, Waiter
from .sizing import share_out

log = logging.getLogger(__name__)

WARM_BYTES = 32 << 20
"""What a sandbox that nobody has is counted with: an agent's 6 MiB and, in Docker, its shim's 20."""
HAND_OVERS_MAX = 3
"""Sandboxes that stood ready which one trajectory may find of no use: then it waits for a new one."""
SHELVES_MAX = 256
"""Templates that are remembered; the one that nobody asked for the longest is forgotten first."""
REVIEW_S = 5.0
"""Between two looks at the targets when nothing happens: arrivals grow old."""
REVIEW_SOON_S = 0.2
"""Between two looks in a storm: each goes through all recent arrivals."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the pool may do."""

    warm_max: int
    """Sandboxes that nobody has, at once."""
    memory_bytes: int
    """That they may take together."""
    idle_s: float
    """How long an arrival counts."""
    starts: int
    """Starts at once, for trajectories and ahead of need together."""


class WarmPool:
    """One node's. `room_bytes` tells how much of the node's memory no trajectory has reserved: what
    stands ready is in that room, and goes at once when trajectories reserve it."""

    def __init__(
        self, launchers: Launchers, limits: PoolLimits, room_bytes: Callable[[], int]
    ) -> None:
        self._launchers = launchers
        self._limits = limits
        self._counts = Counts()
        self._room_bytes = room_bytes
        self._shelves: dict[Hashable, Shelf] = {}
        """The one that was asked for last stands last."""
        self._numbers = count()
        self._closings: set[asyncio.Task[None]] = set()
        self._review: asyncio.TimerHandle | None = None
        self._closed = False

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what would not be tried now. Raises BackingOff, UnknownImage."""
        # Its image may not be there yet: what counts is how it was started before.
        launcher, bare = self._launchers.neutral(spec)
        for shelf in self._shelves.values():
            if shelf.template.launcher == launcher and shelf.template.spec == bare:
                shelf.refuse_failing(asyncio.get_running_loop().time())

    async def open(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> Sandbox:
        """A sandbox for one trajectory: one that stands ready, else the next that starts. It is the
        caller's from now on. Raises TemporaryError, PermanentError, SandboxClosed once the pool is."""
        # An image that is on its way must not keep the sandboxes of others from starting.
        async with self._launchers.prepared(spec):
            return await self._open(spec, on_lost)

    async def _open(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> Sandbox:
        template = await self._launchers.template(spec)
        shelf = self._shelf(template)
        now = asyncio.get_running_loop().time()
        if not spec.snapshot:  # No two trajectories need stand on the same kept files.
            shelf.demand.arrived(now, self._limits.starts)
        self._make_room()
        shelf.refuse_failing(now)
        counts = self._counts_of(shelf)
        for _ in range(HAND_OVERS_MAX):
            if not shelf.ready:
                break
            try:
                sandbox = await self._hand_over(shelf, shelf.ready.popleft(), spec, on_lost)
            except TemporaryError as problem:
                log.warning("a sandbox that stood ready was of no use: %s", problem)
                continue
            counts.hits += 1
            return sandbox
        counts.misses += 1
        return await self._hand_over(shelf, await self._next(shelf), spec, on_lost)

    def statuses(self) -> tuple[WarmStatus, ...]:
        """By launcher and image, those that fail first."""
        found = {
            key: WarmStatus(*key, **asdict(counts)) for key, counts in self._counts.all().items()
        }
        now = asyncio.get_running_loop().time()
        for shelf in self._shelves.values():
            key = self._counts.label(shelf.template.launcher, shelf.template.spec.image)
            known = found.get(key) or WarmStatus(*key)
            found[key] = replace(
                known,
                ready=known.ready + len(shelf.ready),
                starting=known.starting + len(shelf.starting),
                wanted=known.wanted + shelf.target,
                start_s=max(known.start_s, shelf.demand.start_s),
                problem=known.problem or shelf.backoff.sentence(now),
                retry_s=max(known.retry_s, shelf.backoff.left_s(now)),
            )
        return tuple(sorted(found.values(), key=lambda s: (not s.problem, s.launcher, s.image)))

    def _counts_of(self, shelf: Shelf) -> ImageCounts:
        return self._counts.of(shelf.template.launcher, shelf.template.spec.image)

    async def aclose(self) -> None:
        """End what starts and what stands ready; what cannot be ended is logged. Idempotent."""
        self._closed = True
        if self._review is not None:
            self._review.cancel()
        for shelf in self._shelves.values():
            shelf.fail_waiting(SandboxClosed("the node is closing"))
            for task in shelf.starting:
                task.cancel()
            while shelf.ready:
                self._end(shelf.ready.popleft())
        starting = [task for shelf in self._shelves.values() for task in shelf.starting]
        await asyncio.gather(*starting, return_exceptions=True)
        while self._closings:
            await asyncio.wait(self._closings)

    # Handing over

    async def _hand_over(
        self, shelf: Shelf, started: Started, spec: SandboxSpec, on_lost: Callable[[str], None]
    ) -> Sandbox:
        """Raises TemporaryError, PermanentError; the sandbox is gone then."""
        sandbox = started.sandbox
        assert sandbox is not None
        try:
            await sandbox.assign(spec, on_lost)
        except BaseException as problem:
            await asyncio.shield(self._end(started))
            if isinstance(problem, LeaseLost):
                self._note_failure(shelf, f"it died before anybody had it: {problem}")
                raise TemporaryError(f"the sandbox died while it started: {problem}") from problem
            raise
        shelf.backoff.used()
        return sandbox

    async def _next(self, shelf: Shelf) -> Started:
        """The next sandbox that starts. Raises what its start raised."""
        if self._closed:
            raise SandboxClosed("the node is closing")
        # Nobody may have wanted one for so long that it was forgotten while the last was handed over.
        shelf = self._shelves.setdefault(shelf.template.key, shelf)
        waiter = Waiter(next(self._numbers), asyncio.get_running_loop().create_future())
        shelf.waiting.append(waiter)
        self._pump()
        try:
            return await waiter.given
        except asyncio.CancelledError:
            if waiter in shelf.waiting:
                shelf.waiting.remove(waiter)
            elif not waiter.given.cancelled() and waiter.given.exception() is None:
                shelf.ready.appendleft(waiter.given.result())
            await asyncio.shield(self._drop_surplus(shelf))
            raise

    # Starting

    def _pump(self) -> None:
        """Start what is next, as far as starts are free. Whoever changes what is wanted calls it."""
        while not self._closed and (shelf := self._next_shelf()) is not None:
            task = asyncio.create_task(self._start(shelf), name="start a sandbox")
            shelf.starting.append(task)
            # Not at the end of the task itself: one that is cancelled at once never begins.
            task.add_done_callback(lambda task, shelf=shelf: self._ended(shelf, task))  # type: ignore[misc]

    def _ended(self, shelf: Shelf, start: asyncio.Task[None]) -> None:
        shelf.starting.remove(start)
        self._review_soon()
        self._pump()

    def _next_shelf(self) -> Shelf | None:
        """Whose sandbox to start now: the oldest trajectory's that waits, else, with half of the
        starts, where most are missing of those ahead of need."""
        under_way = sum(len(shelf.starting) for shelf in self._shelves.values())
        if under_way >= self._limits.starts:
            return None
        unserved = [s for s in self._shelves.values() if s.unserved is not None]
        if unserved:
            return min(unserved, key=lambda shelf: shelf.unserved or 0)
        if under_way >= max(1, self._limits.starts // 2):
            return None
        now = asyncio.get_running_loop().time()
        short = [
            shelf
            for shelf in self._shelves.values()
            if shelf.warm < shelf.target and shelf.backoff.may_be_ahead(now)
        ]
        return max(short, key=lambda shelf: shelf.target - shelf.warm, default=None)

    async def _start(self, shelf: Shelf) -> None:
        """One start to its end; whatever comes of it, somebody is told or it is noted."""
        loop = asyncio.get_running_loop()
        began, started = loop.time(), Started()
        try:
            launcher = self._launchers.get(shelf.template.launcher)
            started.sandbox = await launcher.start_neutral(
                shelf.template, lambda message: self._on_lost(shelf, started, message)
            )
            if started.lost:
                raise TemporaryError(f"the sandbox died while it started: {started.lost}")
        except asyncio.CancelledError:
            raise
        except Exception as problem:
            if started.sandbox is not None:
                self._end(started)
            # What is not there, or was kept and is no more, is no fault of the image's starts.
            absent = isinstance(problem, UnknownImage | Unsupported) or shelf.template.spec.snapshot
            if not absent:
                self._note_failure(shelf, str(problem) or repr(problem))
            if not isinstance(problem, ManagerError):
                log.exception("starting a sandbox failed")
            shelf.tell_failure(problem, loop.time())
        else:
            seconds = loop.time() - began
            shelf.demand.started(seconds)
            counts = self._counts_of(shelf)
            counts.started += 1
            counts.start_seconds += seconds
            shelf.backoff.started()
            shelf.give(started)

    def _note_failure(self, shelf: Shelf, message: str) -> None:
        image = shelf.template.spec.image
        self._counts_of(shelf).failed += 1
        now = asyncio.get_running_loop().time()
        shelf.backoff.failed(now, message)
        log.warning("sandbox of image %r: %s", image, shelf.backoff.sentence(now))

    # Sizes

    def _shelf(self, template: Template) -> Shelf:
        shelf = self._shelves.pop(template.key, None) or Shelf(template)
        self._shelves[template.key] = shelf
        if len(self._shelves) > SHELVES_MAX:
            oldest = next((key for key, s in self._shelves.items() if s.is_empty), None)
            if oldest is not None and oldest != template.key:
                del self._shelves[oldest]
        return shelf

    def _make_room(self) -> None:
        """A trajectory came: targets are looked at soon, and at once if it takes the room of others."""
        warm = sum(shelf.warm for shelf in self._shelves.values())
        if warm * WARM_BYTES > self._room_bytes():
            self._resize()
        else:
            self._review_soon()

    def _review_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            return
        if self._review is not None:
            if self._review.when() <= loop.time() + REVIEW_SOON_S:
                return
            self._review.cancel()
        self._review = loop.call_later(REVIEW_SOON_S, self._resize)

    def _resize(self) -> None:
        """Set the targets anew, end what is too many, start what is missing."""
        loop = asyncio.get_running_loop()
        if self._review is not None:
            self._review.cancel()
            self._review = None
        if self._closed:
            return
        room_bytes = min(self._limits.memory_bytes, self._room_bytes())
        limit = max(0, min(self._limits.warm_max, room_bytes // WARM_BYTES))
        since = loop.time() - self._limits.idle_s
        needs = {key: shelf.demand.needs(since) for key, shelf in self._shelves.items()}
        start_s = {key: shelf.demand.start_s for key, shelf in self._shelves.items()}
        targets = share_out(needs, start_s, limit)
        for key, shelf in list(self._shelves.items()):
            shelf.target = targets[key]
            for surplus in shelf.take_surplus():
                self._end(surplus)
            if not needs[key] and shelf.is_empty and not shelf.backoff.left_s(loop.time()):
                del self._shelves[key]
        self._pump()
        if self._shelves:
            self._review = loop.call_later(REVIEW_S, self._resize)

    async def _drop_surplus(self, shelf: Shelf) -> None:
        """After somebody stopped waiting: end what was started for it and nobody else wants."""
        ending = [self._end(started) for started in shelf.take_surplus()]
        cancelled = shelf.starting[len(shelf.starting) - shelf.surplus :]
        for task in cancelled:
            task.cancel()
        if doomed := [*ending, *cancelled]:
            await asyncio.wait(doomed)
        self._pump()

    # Ends

    def _on_lost(self, shelf: Shelf, started: Started, message: str) -> None:
        """It died, and is nobody's."""
        started.lost = message
        if started in shelf.ready:
            shelf.ready.remove(started)
            self._note_failure(shelf, f"it died before anybody had it: {message}")
            self._end(started)
            self._review_soon()

    def _end(self, started: Started) -> asyncio.Task[None]:
        task = asyncio.create_task(_close(started), name="end a sandbox that nobody has")
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)
        return task


async def _close(started: Started) -> None:
    assert started.sandbox is not None
    try:
        await started.sandbox.aclose()
    except ManagerError as problem:
        # It is in the next life's way at most, which reaps it.
        log.error("a sandbox that nobody had could not be ended: %s", problem)
