"""What happens because time passes and nobody asks: detached actions, left tasks, passed ttls.

Looks once a second at the dispatcher's records and has it cancel, close and forget. A look that fails
is logged, and the next one comes all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from .book import ActionBook
from .leases import TaskLeases
from .records import ActionRecord, TrajectoryRecord
from .snapshots import SnapshotBook
from .trajectories import TrajectoryBook

log = logging.getLogger(__name__)

PERIOD_S = 1.0


class Actor(Protocol):
    """What the dispatcher does for the housekeeping."""

    async def cancel_all(self, action_ids: Sequence[str], reason: str) -> None: ...

    def close_soon(self, trajectory_id: str) -> None: ...

    def forget(self, record: ActionRecord) -> None: ...


class Housekeeping:
    """One look at a time."""

    def __init__(
        self,
        book: ActionBook,
        trajectories: TrajectoryBook,
        snapshots: SnapshotBook,
        leases: TaskLeases,
        actor: Actor,
        *,
        clock: Callable[[], float],
        detach_grace_s: float,
    ) -> None:
        self._book = book
        self._trajectories = trajectories
        self._snapshots = snapshots
        self._leases = leases
        self._actor = actor
        self._clock = clock
        self._detach_grace_s = detach_grace_s

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.look(self._clock())
            except Exception:
                log.exception("a look around failed")

    async def look(self, now: float) -> None:
        """Everything that is due at `now`."""
        live = self._book.live()
        detached = [record.id for record in live if self._is_detached(record, now)]
        await self._actor.cancel_all(detached, "no client asked for it any more")
        watched = {record.request.action.trajectory for record in live if record.watchers}
        for trajectory in self._trajectories.open():
            if trajectory.id not in watched and self._is_over(trajectory, now):
                self._actor.close_soon(trajectory.id)
        await self._snapshots.drop_stale(now, lambda task: self._leases.alive(task, now))
        for record in self._book.drop_old(now):
            self._actor.forget(record)
        self._leases.forget_past(now)

    def _is_detached(self, record: ActionRecord, now: float) -> bool:
        """Nobody waits for it, nobody asked lately, and no client keeps its task."""
        if record.watchers or now - record.asked_at <= self._detach_grace_s:
            return False
        return not self._leases.leased(record.request.action.task, now)

    def _is_over(self, record: TrajectoryRecord, now: float) -> bool:
        """Its ttl has passed, or its task has nobody left."""
        ttl_s = record.request.ttl_s
        if ttl_s is not None and now - record.opened > ttl_s:
            return True
        return not self._leases.alive(record.request.trajectory.task, now)
