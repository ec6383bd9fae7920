"""Matching waiting actions to free units: one pass per touched queue.

Every waiting action stands in one queue at a time, that of the resource it was last found short
of, or whose units the policy chooses for it. A pass goes through a queue in order: an action that
fits on all its resources is granted; one that is short of this queue's resource stays and blocks
those behind it; one that fits here but is short of another resource moves to that queue, and blocks
nobody here. What is free after that, the policy's arranger shares among the actions whose amount it
chooses. So a pass looks only at what it grants or moves, at one blocked head, and at the choosers.

Nothing starves. Within a queue the order is strict, so only the head of another queue can be
overtaken: by younger actions that take the units it will need too. After OVERTAKE_MAX of them it
becomes a reservation: whatever is younger has to leave its amounts intact, everywhere. Those behind
it cannot use the units before it does, so they reserve nothing until it is their turn. An arranger
bounds overtaking among those whose amount it chooses by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from heapq import merge
from operator import attrgetter

from .decisions import Decision, Grant, Reserve
from .load import Load
from .model import ResourceId, State, WaitReason
from .policy import Policy
from .pool import Pool
from .queue import Alarms, Line, Queue
from .records import Entry, Waits
from .running import Running
from .situation import Situation

OVERTAKE_MAX = 64
"""Younger actions that may take units of an action before these are reserved for it."""

OVERTAKE_CHOOSING_MAX = 4_096
"""Grants in a queue while an action waits there for its amount to be chosen, before it is served
ahead of all others. A bound on starvation, far above what shortest-first does to anybody."""

WAKE_MIN_S = 0.001
"""A view that names a change at or before now is asked again after this, never in a busy loop."""


class Matching:
    """The queues of all resources and the passes over them."""

    def __init__(self, pool: Pool, waits: Waits, policy: Policy) -> None:
        self._pool = pool
        self._waits = waits
        self._policy = policy
        self.queues: dict[ResourceId, Queue] = {}
        self.running: dict[ResourceId, Running] = {}
        """Per resource, the granted actions of which it is the key resource."""
        self.loads: dict[ResourceId, Load] = {}
        """Alike, what was learned of it."""
        self.reservations: dict[str, Entry] = {}
        self.wakes: Alarms[ResourceId] = Alarms()
        """When a queue's view will have more for its head, or its arranger wants to be asked."""
        self.resizes: list[tuple[Entry, Mapping[ResourceId, int]]] = []
        """Other amounts that the policy wishes for running actions: taken out by `core`."""
        self._exposed: dict[ResourceId, dict[str, Entry]] = {}
        """Resource -> heads of other queues that will need it too: those can be overtaken."""
        self._touched: dict[ResourceId, None] = {}

    def touch(self, resource: ResourceId) -> None:
        """Something about this resource changed: its queue deserves a pass."""
        if resource in self.queues:
            self._touched[resource] = None

    def add(self, entry: Entry, now: float) -> None:
        """Queue an action whose needs are bound to resources that exist."""
        key = entry.key_resource()
        if key is not None and self._policy.arranger is not None:
            load = self.loads.setdefault(key, Load(now))
            load.enter(entry, entry.needs[key], now)
        self._park(entry, self._door(entry), now)

    def remove(self, entry: Entry, now: float) -> None:
        """Take a queued action out: it ended, or waits for something else."""
        if entry.queued_at is None:
            return
        self._uncount(entry, now)
        queue = self.queues[entry.queued_at]
        line = queue.line_of(entry)
        queue.remove(entry)
        if line.head is entry:
            self._hide(entry)
            line.head = None
            self._touched[queue.resource] = None
        if self.reservations.pop(entry.id, None) is not None:
            entry.reserved = False
            for resource in entry.needs:
                self.touch(resource)

    def release(self, entry: Entry, now: float) -> None:
        """An action's units are free, or with its node gone: its queues deserve a pass."""
        self._uncount(entry, now)
        for resource in entry.amounts:
            self.touch(resource)
            if (running := self.running.get(resource)) is not None:
                running.drop(entry)

    def _uncount(self, entry: Entry, now: float) -> None:
        key = entry.key_resource()
        if key is not None and (load := self.loads.get(key)) is not None:
            load.leave(entry, now)

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
        for booked in (self.running, self.loads):
            for resource in [r for r in booked if r not in self._pool.views]:
                del booked[resource]

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

    # Waiting

    def _door(self, entry: Entry) -> ResourceId:
        """The queue to wait in first: where its amount is chosen, else any that it needs."""
        return next((r for r in entry.needs if entry.chooses(r)), next(iter(entry.needs)))

    def _park(self, entry: Entry, resource: ResourceId, now: float) -> None:
        queue = self.queues.get(resource)
        if queue is None:
            queue = self.queues[resource] = Queue(resource)
        line = queue.line_of(entry)
        queue.add(entry)
        behind = line.head is not None and line.head.key < entry.key
        if behind and line is queue.rigid and not self._policy.overtakes:
            # Nothing changes for the head, so no pass is due for one more behind it.
            self._waits.set(entry, WaitReason.BEHIND, resource, now)
        else:
            line.fresh.append(entry)
            self._touched[resource] = None

    # Passes

    def _pass(self, queue: Queue, now: float, decisions: list[Decision]) -> None:
        arranger = self._policy.arranger
        again_s = math.inf
        why: WaitReason | None
        queue.promote(now)
        due = self._due(queue, decisions)
        if due is not None:
            # The longest waiting was overtaken often enough: it is served before everybody else.
            again_s = self._arrange(queue, 1, due, now, decisions)
        if due is not None and due.queued_at is not None:
            why, fitting = WaitReason.RESERVED, 0
        elif arranger is not None and arranger.merged:
            why, fitting = self._serve_prefix(queue, now, decisions)
        else:
            why = self._serve(queue, now, decisions)
            fitting = len(queue.elastic.items) if why is None else 0
        if fitting:
            again_s = self._arrange(queue, fitting, None, now, decisions)
        self._block(queue, queue.rigid, why or WaitReason.BEHIND, now)
        self._block(queue, queue.elastic, self._why_choosing(queue, now), now)
        self._set_alarm(queue, again_s, now)

    def _serve(self, queue: Queue, now: float, decisions: list[Decision]) -> WaitReason | None:
        """Grant or move on those whose amount is settled, in order. Why the first that is left
        waits; None if none is left."""
        line = queue.rigid
        kept: list[Entry] = []
        why: WaitReason | None = None
        seen = 0
        for entry in line.items:
            short = self._short(entry, queue, now)
            if short is not None and short[0] == queue.resource:
                why = why or short[1]
                if not self._policy.overtakes or not self._pool.free(queue.resource, now):
                    break
                kept.append(entry)
            else:
                self._leave(entry, line)
                self._send_on(entry, queue, short, now, decisions)
            seen += 1
        line.items[:seen] = kept
        return why

    def _serve_prefix(
        self, queue: Queue, now: float, decisions: list[Decision]
    ) -> tuple[WaitReason | None, int]:
        """Alike, in one order with those that choose, which count with their least amounts. Why
        the first left of the settled waits, and how many of those that choose fit."""
        resource, moved = queue.resource, []
        budget = self._spare(resource, now)
        why: WaitReason | None = None
        served = fitting = 0
        for entry in merge(queue.rigid.items, queue.elastic.items, key=attrgetter("key")):
            short = self._short(entry, queue, now)
            need = entry.needs[resource]
            if (short is None or short[0] == resource) and need > budget:
                why = short[1] if short else self._pool.views[resource].why_short(need, now)
                break
            if not entry.chooses(resource):
                served += 1
                self._leave(entry, queue.rigid)
                self._send_on(entry, queue, short, now, decisions)
                budget -= need if short is None else 0
            elif short is not None:
                moved.append((entry, short))
            else:
                fitting += 1
                budget -= need
        del queue.rigid.items[:served]
        for entry, short in moved:
            queue.remove(entry)
            self._leave(entry, queue.elastic)
            self._send_on(entry, queue, short, now, decisions)
        return why, fitting

    def _arrange(
        self, queue: Queue, fitting: int, due: Entry | None, now: float, decisions: list[Decision]
    ) -> float:
        """Let the policy share what is free among those that choose. When to ask it again."""
        assert self._policy.arranger is not None
        resource = queue.resource
        running = self.running.setdefault(resource, Running(resource))
        view = self._pool.views[resource]
        free = self._spare(resource, now)
        plan = self._policy.arranger.arrange(
            Situation(
                now, view, free, queue.elastic.items, fitting, due, running, self.loads[resource]
            )
        )
        for entry, units in plan.starts:
            short = self._short_elsewhere(entry, resource, now)
            queue.remove(entry)
            self._leave(entry, queue.elastic)
            if short is None:
                self._grant(entry, {**entry.needs, resource: units}, now, decisions)
            else:
                # What it leaves may serve somebody else.
                self._park(entry, short[0], now)
                self._touched[resource] = None
        self.resizes.extend((entry, {resource: units}) for entry, units in plan.resizes)
        return plan.again_s

    def _due(self, queue: Queue, decisions: list[Decision]) -> Entry | None:
        """The oldest of those that choose, if it was overtaken so often that it is its turn."""
        arranger = self._policy.arranger
        if arranger is None or arranger.merged or not queue.elastic.items:
            return None
        oldest = queue.oldest()
        if queue.granted - oldest.mark <= OVERTAKE_CHOOSING_MAX:
            return None
        if not oldest.reserved:
            oldest.reserved = True
            decisions.append(Reserve(oldest.id, tuple(oldest.needs)))
        return oldest

    def _send_on(
        self,
        entry: Entry,
        queue: Queue,
        short: tuple[ResourceId, WaitReason] | None,
        now: float,
        decisions: list[Decision],
    ) -> None:
        """An action that nothing in this queue keeps: granted, or to where it has to wait."""
        if short is not None:
            self._park(entry, short[0], now)
        elif (door := self._door(entry)) != queue.resource and entry.chooses(door):
            self._park(entry, door, now)
        else:
            self._grant(entry, entry.needs, now, decisions)

    def _leave(self, entry: Entry, line: Line) -> None:
        entry.queued_at = None
        if line.head is entry:
            self._hide(entry)
            line.head = None

    # What is short

    def _spare(self, resource: ResourceId, now: float) -> int:
        """Units that nobody holds and no reservation keeps."""
        return max(0, self._pool.views[resource].free(now) - self.kept(resource))

    def _short(
        self, entry: Entry, queue: Queue, now: float
    ) -> tuple[ResourceId, WaitReason] | None:
        """The first resource that keeps the action waiting and why; None if it can be granted."""
        reason = self._why_short(entry, queue.resource, now)
        if reason is not None:
            return queue.resource, reason
        return self._short_elsewhere(entry, queue.resource, now)

    def _short_elsewhere(
        self, entry: Entry, here: ResourceId, now: float
    ) -> tuple[ResourceId, WaitReason] | None:
        if len(entry.needs) == 1:
            return None
        for resource in entry.needs:
            if resource == here:
                continue
            other = self.queues.get(resource)
            if other is not None and not entry.chooses(resource) and other.first_is_older(entry):
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

    def _why_choosing(self, queue: Queue, now: float) -> WaitReason:
        """Why the first of those that choose waits."""
        if not queue.elastic.items:
            return WaitReason.BEHIND
        first = queue.elastic.items[0]
        return self._why_short(first, queue.resource, now) or WaitReason.FOR_MORE

    # Granting

    def _grant(
        self,
        entry: Entry,
        amounts: Mapping[ResourceId, int],
        now: float,
        decisions: list[Decision],
    ) -> None:
        entry.token = self._pool.next_token()
        entry.amounts = amounts
        self._pool.take(entry.token, amounts, now)
        entry.state = State.PREPARING
        self._waits.stop(entry, now)
        self.book(entry, now)
        decisions.append(Grant(entry.id, entry.node, entry.token, amounts))
        if self.reservations.pop(entry.id, None) is not None:
            # As much is free for the younger as before, but no longer for the same reason.
            for resource in entry.needs:
                self.touch(resource)
        if self._exposed:
            self._count_overtaken(entry, decisions)

    def book(self, entry: Entry, now: float) -> None:
        """The action holds its units from now on: others may want to know until when."""
        key = entry.key_resource()
        for resource in entry.amounts:
            if (queue := self.queues.get(resource)) is not None:
                queue.granted += 1
        if key is not None and self._policy.arranger is not None:
            self.running.setdefault(key, Running(key)).start(entry, now)

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

    # After a pass

    def _block(self, queue: Queue, line: Line, why: WaitReason, now: float) -> None:
        """The pass is over: tell everybody in the line whose reason changed."""
        head = line.items[0] if line.items else None
        before, line.head = line.head, head
        if before is not None and before is not head:
            self._hide(before)
            self._waits.set(before, WaitReason.BEHIND, queue.resource, now)
        fresh, line.fresh = line.fresh, []
        for entry in fresh:
            if entry.queued_at == queue.resource and entry is not head:
                self._waits.set(entry, WaitReason.BEHIND, queue.resource, now)
        if head is None:
            return
        self._waits.set(head, why, queue.resource, now)
        for resource in head.needs:
            if resource != queue.resource:
                self._exposed.setdefault(resource, {})[head.id] = head

    def _set_alarm(self, queue: Queue, again_s: float, now: float) -> None:
        change: float | None = None
        if queue.rigid.items or queue.elastic.items:
            change = self._pool.views[queue.resource].next_change(now)
        time = again_s if change is None else min(change, again_s)
        if time < math.inf:
            self.wakes.set(queue.resource, max(time, now + WAKE_MIN_S))
        else:
            self.wakes.drop(queue.resource)

    def _hide(self, head: Entry) -> None:
        for resource in head.needs:
            exposed = self._exposed.get(resource, {})
            if exposed.pop(head.id, None) is not None and not exposed:
                del self._exposed[resource]
