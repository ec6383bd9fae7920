"""Everybody who waits for units: in which queue, in what order, for which reason.

An action stands in one queue at a time, that of the resource it was last found short of, or whose
units the policy chooses for it; or, if its task holds as much as it may, in the task's line.
Whoever comes, goes or changes places marks the queues that deserve a pass; the passes are
`matching`'s.

Nothing starves. Whoever was overtaken too often becomes FIRST: before everybody else, its units
kept from all others. Three things count as being overtaken, each bounded:
- in its queue, by those that came later: OVERTAKE_YOUNGER_MAX of them, whatever the order says;
- at the head of a queue, by those that take units of another resource that it will need:
  OVERTAKE_MAX of them;
- when it is its turn but another resource's lack sends it to another queue: OVERTAKE_MAX times.
"""

from __future__ import annotations

from collections.abc import Container

from .decisions import Decision, Reserve
from .ledger import Ledger
from .limits import TaskLimits
from .model import ResourceId, WaitReason
from .policy import Policy
from .queue import IMPATIENT, Alarms, Line, Queue
from .ranking import Ranking
from .records import FIRST, Entry, Waits
from .reserving import Reservations

OVERTAKE_MAX = 64
"""Others that may take units of an action before these are reserved for it."""

OVERTAKE_YOUNGER_MAX = 4_096
"""Actions that came later and leave a queue before one that waits there, until it goes before all
others. A bound on starvation, far above what any order means to do to anybody."""


class Waiting:
    """The queues of all resources and the lines of all tasks at their limit."""

    def __init__(
        self,
        waits: Waits,
        policy: Policy,
        ranking: Ranking,
        limits: TaskLimits,
        ledger: Ledger,
    ) -> None:
        self.queues: dict[ResourceId, Queue] = {}
        self.reservations = Reservations()
        self.limits = limits
        self.wakes: Alarms[ResourceId] = Alarms()
        """When a queue's view will have more for its head, or its arranger wants to be asked."""
        self._waits = waits
        self._arranger = policy.arranger
        self._overtakes = policy.overtakes
        self._ledger = ledger
        self._ranking = ranking
        self._touched: dict[ResourceId, None] = {}
        self._overdue: dict[str, Entry] = {}
        """Overtaken too often during a pass: FIRST as soon as it is over."""

    def touch(self, resource: ResourceId) -> None:
        """Something about this resource changed: its queue deserves a pass."""
        if resource in self.queues:
            self._touched[resource] = None

    def next_touched(self, now: float) -> Queue | None:
        """The queue to pass over next; None if nothing is left to do. Those whom a limit let go
        come back to their queues first."""
        for overdue in self.limits.overdue(OVERTAKE_YOUNGER_MAX):
            self.rekey(overdue, FIRST)
        while (entry := self.limits.next_fitting()) is not None:
            self.limits.leave(entry)
            self.add(entry, now)
        if not self._touched:
            return None
        resource = next(iter(self._touched))
        del self._touched[resource]
        return self.queues[resource]

    # Coming and going

    def add(self, entry: Entry, now: float) -> None:
        """Queue an action whose needs are bound to resources that exist, or have it wait until
        its task holds less."""
        limit, late = self.limits.claim(entry)
        for other in late:
            self._hold_back(other, now)
        if limit is None:
            self._ledger.enter(entry, now)
            self.park(entry, self.door(entry), now)
        else:
            self._waits.set(entry, WaitReason.TASK_LIMIT, limit, now)

    def remove(self, entry: Entry, now: float) -> None:
        """Take an action out: it ended, or waits for something else. Silent if it is not here."""
        if entry.queued_at is not None or entry.limited_at is not None:
            self._ledger.leave(entry, now)
            self._take_out(entry)

    def _take_out(self, entry: Entry) -> None:
        if entry.limited_at is not None:
            self.limits.leave(entry)
        if entry.queued_at is None:
            return
        self.limits.unclaim(entry)
        queue = self.queues[entry.queued_at]
        line = queue.line_of(entry)
        queue.remove(entry)
        if line.head is entry:
            self._touched[queue.resource] = None
            self._forget_head(entry, line)
        self.end_reservation(entry)

    def door(self, entry: Entry) -> ResourceId:
        """The queue to wait in first: where its amount is chosen, else any that it needs."""
        return next((r for r in entry.needs if entry.chooses(r)), next(iter(entry.needs)))

    def park(self, entry: Entry, resource: ResourceId, now: float) -> None:
        """Let it stand in this queue."""
        queue = self.queues.get(resource)
        if queue is None:
            queue = self.queues[resource] = Queue(resource)
        line = queue.line_of(entry)
        queue.add(entry)
        if entry.reserved:
            self.reservations.add(entry)
        behind = line.head is not None and line.head.key < entry.key
        if behind and line is queue.rigid and not self._overtakes:
            # Nothing changes for the head, so no pass is due for one more behind it.
            self._waits.set(entry, WaitReason.BEHIND, resource, now)
        else:
            line.fresh.append(entry)
            self._touched[resource] = None

    def send_on(
        self, entry: Entry, resource: ResourceId, now: float, decisions: list[Decision]
    ) -> None:
        """It was its turn, but it is short of another resource."""
        self.park(entry, resource, now)
        entry.sent_on += 1
        if entry.sent_on > OVERTAKE_MAX and not entry.reserved:
            self._reserve(entry, decisions)

    def leave(self, entry: Entry, line: Line) -> None:
        """It goes in a pass, which takes all that did out of its line and queue in the end."""
        entry.queued_at = None
        if line.head is entry:
            self._forget_head(entry, line)

    def _forget_head(self, entry: Entry, line: Line) -> None:
        self.reservations.hide(entry)
        line.head = None

    def drop_queues(self, resources: Container[ResourceId]) -> None:
        """Of resources that are not among these any more. Nobody waits there."""
        for resource in [r for r in self.queues if r not in resources]:
            del self.queues[resource]
            self._touched.pop(resource, None)
            self.wakes.drop(resource)

    # Limits of tasks

    def _hold_back(self, entry: Entry, now: float) -> None:
        """Others of its task have what the limit allows: it waits outside the queues."""
        self._take_out(entry)
        self._ledger.leave(entry, now)
        self._waits.set(entry, WaitReason.TASK_LIMIT, self.limits.hold_back(entry), now)

    def hold_back_excess(self, task: str, kind: str, now: float) -> None:
        """The task holds more than before: the last of its queued ones may be too many now."""
        while (entry := self.limits.excess(task, kind)) is not None:
            self._hold_back(entry, now)

    # Order

    def rekey(self, entry: Entry, rank: float) -> None:
        """Another place in the order of service, wherever it waits. What is FIRST stays so."""
        if entry.key[0] in (FIRST, rank):
            return
        queue = self.queues[entry.queued_at] if entry.queued_at is not None else None
        lines = [*self.limits.lines_of(entry), *([queue.line_of(entry)] if queue else [])]
        for line in lines:
            line.remove(entry)
        entry.key = (rank, *entry.key[1:])
        self.set_rank(entry)
        for line in lines:
            line.add(entry)
        self.limits.moved(entry)
        if queue is not None and lines[-1].items[0] is not lines[-1].head:
            self._touched[queue.resource] = None

    def set_rank(self, entry: Entry) -> None:
        """As its key and the policy say."""
        entry.tier = FIRST if entry.key[0] == FIRST else self._ranking.tier(entry.key[0])
        if entry.choices is not None and self._arranger is not None:
            impatient = entry.rank[1] == IMPATIENT
            entry.rank = self._arranger.rank(entry)
            if impatient:
                entry.rank = (entry.rank[0], IMPATIENT, *entry.key[1:])

    # Overtaking

    def granted(self, entry: Entry, here: ResourceId, decisions: list[Decision]) -> None:
        """It left its queue here and got its units."""
        if entry.reserved:
            self.end_reservation(entry)
        if len(entry.needs) > 1:
            for resource in entry.needs:
                if resource != here and (queue := self.queues.get(resource)) is not None:
                    queue.ages.departed += 1
        if self.reservations.exposed:
            for head in self.reservations.overtaken_by(entry):
                head.overtaken += 1
                if head.overtaken > OVERTAKE_MAX:
                    self._reserve(head, decisions)

    def promote_oldest(self, queue: Queue, decisions: list[Decision]) -> None:
        """Before a pass: whoever waits longest may have waited long enough."""
        oldest = queue.ages.overdue(OVERTAKE_YOUNGER_MAX)
        if oldest is not None and not oldest.reserved:
            self._reserve(oldest, decisions)
            self.promote_overdue()

    def promote_overdue(self) -> None:
        """After a pass: nobody goes through the lines now, so their order may change."""
        overdue, self._overdue = self._overdue, {}
        for entry in overdue.values():
            if entry.queued_at is not None:
                self.rekey(entry, FIRST)

    def _reserve(self, entry: Entry, decisions: list[Decision]) -> None:
        entry.reserved = True
        self.reservations.add(entry)
        self._overdue[entry.id] = entry
        decisions.append(Reserve(entry.id, tuple(entry.needs)))

    def end_reservation(self, entry: Entry) -> None:
        """It waits in no queue: what was kept for it is free, or its own."""
        if self.reservations.drop(entry):
            for resource in entry.needs:
                self.touch(resource)

    # After a pass

    def tell(self, queue: Queue, line: Line, why: WaitReason, now: float) -> None:
        """The pass over this line is over: tell everybody whose reason changed."""
        head = line.items[0] if line.items else None
        before, line.head = line.head, head
        if before is not None and before is not head:
            self.reservations.hide(before)
            self._waits.set(before, WaitReason.BEHIND, queue.resource, now)
        fresh, line.fresh = line.fresh, []
        for entry in fresh:
            if entry.queued_at == queue.resource and entry is not head:
                self._waits.set(entry, WaitReason.BEHIND, queue.resource, now)
        if head is not None:
            self._waits.set(head, why, queue.resource, now)
            self.reservations.expose(head, queue.resource)
