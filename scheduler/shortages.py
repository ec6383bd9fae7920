"""What keeps an action from its units: too few are free, others go first, or they are kept.

Reads the views, the queues and the reservations, and changes nothing: the passes are `matching`'s.
"""

from __future__ import annotations

from typing import TypeAlias

from .model import ResourceId, WaitReason
from .operators import Operator
from .pool import Pool
from .queue import Queue
from .records import Entry
from .waiting import Waiting

Short: TypeAlias = tuple[ResourceId, WaitReason]
"""The first resource that keeps an action waiting, and why."""


class Shortages:
    """Asked of one action at a time, now."""

    def __init__(self, pool: Pool, waiting: Waiting) -> None:
        self._pool = pool
        self._waiting = waiting

    def spare(self, queue: Queue, fitting: int, due: Entry | None, now: float) -> Operator:
        """What nobody holds and no reservation keeps from those who are to be arranged: the one
        that is due, else the first so many."""
        resource = queue.resource
        operator = self._pool.views[resource].operator(now)
        reservations = self._waiting.reservations
        if not reservations.entries:
            return operator
        if due is not None:
            return operator.beside(reservations.kept_from(due, resource))
        own = {entry.id for entry in queue.elastic.items[:fitting] if entry.reserved}
        others = [entry for entry in reservations.entries.values() if entry.id not in own]
        return operator.beside(e.needs[resource] for e in others if resource in e.needs)

    def of(self, entry: Entry, here: ResourceId, now: float) -> Short | None:
        """The first resource that keeps the action waiting and why; None if it can be granted."""
        if (reason := self.why(entry, here, now)) is not None:
            return here, reason
        return self.elsewhere(entry, here, now) if len(entry.needs) > 1 else None

    def elsewhere(self, entry: Entry, here: ResourceId, now: float) -> Short | None:
        """The same among all that it needs but `here`."""
        for resource in entry.needs:
            if resource == here:
                continue
            other = self._waiting.queues.get(resource)
            if other is not None and not entry.chooses(resource) and other.blocks(entry):
                return resource, WaitReason.BEHIND
            if (reason := self.why(entry, resource, now)) is not None:
                return resource, reason
        return None

    def why(self, entry: Entry, resource: ResourceId, now: float) -> WaitReason | None:
        """Why it cannot have what it needs of this one; None if it can."""
        view, need = self._pool.views[resource], entry.needs[resource]
        free = view.free(now)
        if need > free:
            return view.why_short(need, now)
        reservations = self._waiting.reservations
        kept = reservations.kept_from(entry, resource) if reservations.entries else ()
        if kept and need > view.operator(now).beside(kept).most:
            return WaitReason.RESERVED
        return None

    def why_choosing(self, queue: Queue, now: float) -> WaitReason:
        """Why the first of those that choose waits."""
        if not queue.elastic.items:
            return WaitReason.BEHIND
        first = queue.elastic.items[0]
        return self.why(first, queue.resource, now) or WaitReason.FOR_MORE
