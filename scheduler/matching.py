"""Matching waiting actions to free units: one first-come pass per touched queue.

Every waiting action stands in one queue at a time, that of the resource it was last found short
of. A pass goes through a queue in order: an action that fits on all its resources is granted; one
that is short of this queue's resource stays and blocks all behind it; one that fits here but is
short of another resource moves to that queue, and blocks nobody here. So a pass looks only at what
it grants or moves, and at one blocked head.

Nothing starves. Within a queue the order is strict, so only the head of another queue can be
overtaken: by younger actions that take the units it will need too. After OVERTAKE_MAX of them it
becomes a reservation: whatever is younger has to leave its amounts intact, everywhere. Those behind
it cannot use the units before it does, so they reserve nothing until it is their turn.
"""

from __future__ import annotations

from .decisions import Decision, Grant, Reserve
from .model import ResourceId, State, WaitReason
from .pool import Pool
from .queue import Alarms, Queue
from .records import Entry, Waits

OVERTAKE_MAX = 64
"""Younger actions that may take units of an action before these are reserved for it."""

WAKE_MIN_S = 0.001
"""A view that names a change at or before now is asked again after this, never in a busy loop."""


class Matching:
    """The queues of all resources and the passes over them."""

    def __init__(self, pool: Pool, waits: Waits) -> None:
        self._pool = pool
        self._waits = waits
        self.queues: dict[ResourceId, Queue] = {}
        self.reservations: dict[str, Entry] = {}
        self.wakes: Alarms[ResourceId] = Alarms()
        """When a queue's view will have more for its head by the mere passing of time."""
        self._exposed: dict[ResourceId, dict[str, Entry]] = {}
        """Resource -> heads of other queues that will need it too: those can be overtaken."""
        self._touched: dict[ResourceId, None] = {}

    def touch(self, resource: ResourceId) -> None:
        """Something about this resource changed: its queue deserves a pass."""
        if resource in self.queues:
            self._touched[resource] = None

    def add(self, entry: Entry, now: float) -> None:
        """Queue an action whose needs are bound to resources that exist."""
        self._park(entry, next(iter(entry.needs)), now)

    def remove(self, entry: Entry) -> None:
        """Take a queued action out: it ended, or waits for something else."""
        if entry.queued_at is None:
            return
        queue = self.queues[entry.queued_at]
        queue.remove(entry)
        if queue.head is entry:
            self._hide(entry)
            queue.head = None
            self._touched[queue.resource] = None
        if self.reservations.pop(entry.id, None) is not None:
            entry.reserved = False
            for resource in entry.needs:
                self.touch(resource)

    def run(self, now: float) -> list[Decision]:
        """One pass over each queue that was touched since, or whose time has come."""
        for resource in self.wakes.due(now):
            self.touch(resource)
        decisions: list[Decision] = []
        while self._touched:
            resource = next(iter(self._touched))
            del self._touched[resource]
            self._pass(self.queues[resource], now, decisions)
        return decisions

    def drop_queues(self) -> None:
        """Of resources that are gone. Nobody waits there any more."""
        for resource in [r for r in self.queues if r not in self._pool.views]:
            del self.queues[resource]
            self._touched.pop(resource, None)
            self.wakes.drop(resource)

    def kept_for_older(self, entry: Entry, resource: ResourceId) -> int:
        """Units of the resource that reservations of older actions keep from this one."""
        return sum(
            older.needs.get(resource, 0)
            for older in self.reservations.values()
            if older.key < entry.key
        )

    def kept(self, resource: ResourceId) -> int:
        """Units of the resource that reservations keep from everybody else."""
        return sum(entry.needs.get(resource, 0) for entry in self.reservations.values())

    def _park(self, entry: Entry, resource: ResourceId, now: float) -> None:
        queue = self.queues.get(resource)
        if queue is None:
            queue = self.queues[resource] = Queue(resource)
        queue.add(entry)
        if queue.head is not None and queue.head.key < entry.key:
            # Nothing changes for the head, so no pass is due for one more behind it.
            self._waits.set(entry, WaitReason.BEHIND, resource, now)
        else:
            queue.fresh.append(entry)
            self._touched[resource] = None

    def _pass(self, queue: Queue, now: float, decisions: list[Decision]) -> None:
        served = 0
        head: Entry | None = None
        why = WaitReason.BEHIND
        for entry in queue.items:
            short = self._short(entry, queue, now)
            if short is not None and short[0] == queue.resource:
                head, why = entry, short[1]
                break
            served += 1
            entry.queued_at = None
            if queue.head is entry:
                self._hide(entry)
                queue.head = None
            if short is None:
                self._grant(entry, now, decisions)
            else:
                self._park(entry, short[0], now)
        del queue.items[:served]
        self._block(queue, head, why, now)

    def _short(
        self, entry: Entry, queue: Queue, now: float
    ) -> tuple[ResourceId, WaitReason] | None:
        """The first resource that keeps the action waiting and why; None if it can be granted."""
        reason = self._why_short(entry, queue.resource, now)
        if reason is not None:
            return queue.resource, reason
        if len(entry.needs) == 1:
            return None
        for resource in entry.needs:
            if resource == queue.resource:
                continue
            other = self.queues.get(resource)
            if other is not None and other.first_is_older(entry):
                return resource, WaitReason.BEHIND
            if (reason := self._why_short(entry, resource, now)) is not None:
                return resource, reason
        return None

    def _why_short(self, entry: Entry, resource: ResourceId, now: float) -> WaitReason | None:
        view, need = self._pool.views[resource], entry.needs[resource]
        free = view.free(now)
        if need > free:
            return view.why_short(need, now)
        if self.reservations and need > free - self.kept_for_older(entry, resource):
            return WaitReason.RESERVED
        return None

    def _grant(self, entry: Entry, now: float, decisions: list[Decision]) -> None:
        entry.token = self._pool.next_token()
        entry.amounts = entry.needs
        self._pool.take(entry.token, entry.amounts, now)
        entry.state = State.PREPARING
        self._waits.stop(entry, now)
        decisions.append(Grant(entry.id, entry.node, entry.token, entry.amounts))
        if self.reservations.pop(entry.id, None) is not None:
            # As much is free for the younger as before, but no longer for the same reason.
            for resource in entry.needs:
                self.touch(resource)
        if self._exposed:
            self._count_overtaken(entry, decisions)

    def _count_overtaken(self, granted: Entry, decisions: list[Decision]) -> None:
        overtaken: dict[str, Entry] = {}
        for resource in granted.needs:
            for older in self._exposed.get(resource, {}).values():
                if older.key < granted.key and not older.reserved:
                    overtaken[older.id] = older
        for older in overtaken.values():
            older.overtaken += 1
            if older.overtaken > OVERTAKE_MAX:
                older.reserved = True
                self.reservations[older.id] = older
                decisions.append(Reserve(older.id, tuple(older.needs)))

    def _block(self, queue: Queue, head: Entry | None, why: WaitReason, now: float) -> None:
        """The pass is over: tell everybody whose reason changed, and set the alarm."""
        before, queue.head = queue.head, head
        if before is not None and before is not head:
            self._hide(before)
            self._waits.set(before, WaitReason.BEHIND, queue.resource, now)
        fresh, queue.fresh = queue.fresh, []
        for entry in fresh:
            if entry.queued_at == queue.resource and entry is not head:
                self._waits.set(entry, WaitReason.BEHIND, queue.resource, now)
        if head is None:
            self.wakes.drop(queue.resource)
            return
        self._waits.set(head, why, queue.resource, now)
        for resource in head.needs:
            if resource != queue.resource:
                self._exposed.setdefault(resource, {})[head.id] = head
        change = self._pool.views[queue.resource].next_change(now)
        if change is None:
            self.wakes.drop(queue.resource)
        else:
            self.wakes.set(queue.resource, max(change, now + WAKE_MIN_S))

    def _hide(self, head: Entry) -> None:
        for resource in head.needs:
            exposed = self._exposed.get(resource, {})
            if exposed.pop(head.id, None) is not None and not exposed:
                del self._exposed[resource]
