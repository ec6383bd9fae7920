"""Snapshots by name, and forks: which kept files of which node belong to what, and until when.

Names are a task's own and end with it, or with their ttl. The files themselves are kept by the nodes'
managers under ids that only this file knows; a fork starts from such files too, which are let go once
it has started. Decides nothing about who is placed when.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Protocol

from ..errors import FailedPrecondition, InvalidRequest, NotFound
from ..limits import SIZE_BYTES_MAX
from ..managers.base import SandboxHost
from ..managers.errors import ManagerError
from .admission import DispatcherLimits
from .failures import from_manager
from .records import TrajectoryRecord, TrajectoryRequest
from .trajectories import TrajectoryBook

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """Files that a node keeps."""

    id: str
    node: str
    image: str
    size_bytes: int
    skipped: tuple[str, ...]
    users: int = 1
    """The name, or the fork under way, and every sandbox that has yet to start from it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named state of a trajectory's files."""

    name: str
    task: str
    trajectory: str
    kept: _Kept
    made: float
    """On the server's monotonic clock."""
    ttl_s: float | None


@dataclass(frozen=True, slots=True)
class Forked:
    records: list[TrajectoryRecord]
    skipped: tuple[str, ...]


class Owner(Protocol):
    """What the dispatcher does for the book."""

    limits: DispatcherLimits

    def now(self) -> float: ...

    async def sandbox_host(self, trajectory_id: str) -> SandboxHost: ...

    async def open_trajectory(self, request: TrajectoryRequest) -> TrajectoryRecord: ...

    async def close_trajectory(self, trajectory_id: str) -> None: ...


class SnapshotBook:
    """All kept files of this server: the service's calls that are about whole sandboxes' files."""

    def __init__(self, trajectories: TrajectoryBook, owner: Owner) -> None:
        self._trajectories = trajectories
        self._owner = owner
        self._named: dict[tuple[str, str], Snapshot] = {}
        self._hosts: dict[str, SandboxHost] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def fork(self, parent_id: str, ids: Sequence[str]) -> Forked:
        """New trajectories with the parent's settings and its files as they are now, on its node.

        The same ids again give the same trajectories. If one cannot be opened, none is. Raises
        FailedPrecondition (it names the action that runs), AlreadyExists, TangramError.
        """
        parent = self._trajectories.usable(parent_id)
        wanted = [_fork_of(parent.request, identifier) for identifier in ids]
        known = [self._trajectories.known(request) for request in wanted]
        records = [record for record in known if record is not None]
        if len(records) == len(wanted):
            return Forked(records, ())
        kept = await self._keep(parent_id, SIZE_BYTES_MAX)
        opened: list[TrajectoryRecord] = []
        try:
            for request in wanted:
                opened.append(await self._start_from(kept, request))
        except BaseException:
            fresh = [record.id for record in opened if record not in records]
            await asyncio.gather(
                *(self._owner.close_trajectory(identifier) for identifier in fresh)
            )
            raise
        finally:
            await self._let_go(kept)
        return Forked(opened, kept.skipped)

    async def open(self, request: TrajectoryRequest) -> TrajectoryRecord:
        """Open a trajectory that starts from a snapshot of its task, on the node that has it.

        Raises NotFound, InvalidRequest, TangramError.
        """
        if (known := self._trajectories.known(request)) is not None:
            return known
        kept = self._find(request.trajectory.task, request.snapshot).kept
        image = request.spec.image or kept.image
        if image != kept.image:
            raise InvalidRequest(
                f"snapshot {request.snapshot!r} is of image {kept.image!r}, not of {image!r}: leave "
                "the image out",
                field="image",
            )
        return await self._start_from(
            kept, replace(request, spec=replace(request.spec, image=image))
        )

    async def make(self, trajectory_id: str, name: str, ttl_s: float | None) -> Snapshot:
        """Keep a trajectory's files by this name of its task; what had the name before is dropped.

        Raises FailedPrecondition (it names the action that runs; a limit is reached), TangramError.
        """
        task = self._trajectories.usable(trajectory_id).request.trajectory.task
        left_bytes = self._room(task, name)
        kept = await self._keep(trajectory_id, left_bytes)
        try:
            self._room(task, name)  # Others may have been made meanwhile.
        except FailedPrecondition:
            await self._let_go(kept)
            raise
        former = self._named.get((task, name))
        snapshot = Snapshot(name, task, trajectory_id, kept, self._owner.now(), ttl_s)
        self._named[task, name] = snapshot
        if former is not None:
            await self._let_go(former.kept)
        return snapshot

    async def restore(self, trajectory_id: str, name: str) -> None:
        """Put a trajectory's files back to a snapshot of its task; all its processes end.

        Raises NotFound, FailedPrecondition, TangramError.
        """
        record = self._trajectories.usable(trajectory_id)
        kept = self._find(record.request.trajectory.task, name).kept
        kept.users += 1
        try:
            host = await self._owner.sandbox_host(trajectory_id)
            if (record.node, record.request.spec.image) != (kept.node, kept.image):
                raise FailedPrecondition(
                    f"snapshot {name!r} is on node {kept.node} and of image {kept.image!r}, but "
                    f"trajectory {trajectory_id!r} on {record.node} and of "
                    f"{record.request.spec.image!r}: open one from the snapshot",
                    field="name",
                )
            with record.files.changing() if record.files is not None else nullcontext():
                await host.restore_files(trajectory_id, kept.id)
        except ManagerError as error:
            raise from_manager(error) from error
        finally:
            await self._let_go(kept)

    async def drop(self, task: str, name: str) -> None:
        """Forget a snapshot. Trajectories that started from it go on. Silent if there is none."""
        snapshot = self._named.pop((task, name), None)
        if snapshot is not None:
            await self._let_go(snapshot.kept)

    def of_task(self, task: str) -> list[Snapshot]:
        """A task's snapshots, in the order of their making."""
        return [snapshot for snapshot in self._named.values() if snapshot.task == task]

    async def drop_stale(self, now: float, alive: Callable[[str], bool]) -> None:
        """Drop those whose ttl has passed, and those of tasks that have nobody left."""
        for snapshot in list(self._named.values()):
            passed = snapshot.ttl_s is not None and now - snapshot.made > snapshot.ttl_s
            if passed or not alive(snapshot.task):
                await self.drop(snapshot.task, snapshot.name)

    async def aclose(self) -> None:
        """Drop all; every trajectory is closed by now. Idempotent."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.drop_stale(0.0, lambda task: False)

    def _room(self, task: str, name: str) -> int:
        """Bytes that the task may still keep. Raises FailedPrecondition if it may keep no more."""
        others = [snapshot for snapshot in self.of_task(task) if snapshot.name != name]
        limits = self._owner.limits
        if len(others) >= limits.max_snapshots:
            raise FailedPrecondition(
                f"task {task!r} has {len(others)} snapshots, which is the limit: drop some "
                "(drop_snapshot), or give them a ttl",
                field="name",
            )
        return max(0, limits.max_snapshot_bytes - sum(other.kept.size_bytes for other in others))

    def _find(self, task: str, name: str) -> Snapshot:
        snapshot = self._named.get((task, name))
        if snapshot is None:
            raise NotFound(
                f"task {task!r} has no snapshot {name!r}: it was not made, or was dropped, or its "
                "ttl has passed",
                field="snapshot",
            )
        return snapshot

    async def _keep(self, trajectory_id: str, limit_bytes: int) -> _Kept:
        record = self._trajectories.get(trajectory_id)
        identifier = f"k-{secrets.token_hex(8)}"
        try:
            host = await self._owner.sandbox_host(trajectory_id)
            files = await host.keep_files(trajectory_id, identifier, limit_bytes)
        except ManagerError as error:
            raise from_manager(error) from error
        self._hosts[record.node] = host
        image = record.request.spec.image
        return _Kept(identifier, record.node, image, files.size_bytes, files.skipped)

    async def _start_from(self, kept: _Kept, request: TrajectoryRequest) -> TrajectoryRecord:
        """Open it on the files; they stay until it has started, or never will."""
        kept.users += 1
        trajectory = replace(request.trajectory, node=kept.node)
        spec = replace(request.spec, snapshot=kept.id)
        try:
            record = await self._owner.open_trajectory(
                replace(request, trajectory=trajectory, spec=spec)
            )
        except BaseException:
            await self._let_go(kept)
            raise
        self._spawn(self._hold_until_started(kept, record))
        return record

    async def _hold_until_started(self, kept: _Kept, record: TrajectoryRecord) -> None:
        await record.settled.wait()
        await self._let_go(kept)

    async def _let_go(self, kept: _Kept) -> None:
        kept.users -= 1
        if kept.users:
            return
        try:
            await self._hosts[kept.node].discard_files(kept.id)
        except ManagerError as error:
            log.warning("kept files of node %s were not removed: %s", kept.node, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fork_of(parent: TrajectoryRequest, identifier: str) -> TrajectoryRequest:
    """A trajectory like the parent, whose sandbox is yet to be given files."""
    mark = f"fork of {parent.trajectory.id} as {identifier}".encode()
    return replace(
        parent,
        trajectory=replace(parent.trajectory, id=identifier),
        spec=replace(parent.spec, trajectory=identifier),
        fingerprint=blake2b(mark, digest_size=16).digest(),
        forked_from=parent.trajectory.id,
        snapshot="",
    )
