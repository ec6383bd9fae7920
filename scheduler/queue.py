"""Ordered waiting: the queue of one resource, and alarms that wake a queue or expire an action.

Plain containers. They know keys and times, not why somebody waits or what a unit is.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Generic, TypeAlias, TypeVar

from .model import ResourceId
from .records import FIRST, Arrival, Entry, Key, Rank, Seat

IMPATIENT = -1.0
"""The rank within its tier of whoever waited too long: before every duration."""


class Line:
    """Actions in an order of their own, the first to be served first."""

    __slots__ = ("_order", "fresh", "head", "items")

    def __init__(self, order: Callable[[Entry], Key | Rank]) -> None:
        self._order = order
        self.items: list[Entry] = []
        self.head: Entry | None = None
        """The first after the last pass: it was found short, and those behind it are told so."""
        self.fresh: list[Entry] = []
        """Added since the last pass: nobody has told them yet why they wait."""

    def add(self, entry: Entry) -> None:
        insort(self.items, entry, key=self._order)

    def remove(self, entry: Entry) -> None:
        first = self.items and self.items[0] is entry  # as when a pass takes one after the other
        del self.items[0 if first else self.ahead_of(entry)]

    def remove_all(self, entries: list[Entry]) -> None:
        """Those that are the first, in their order, cost no more than one."""
        if self.items[: len(entries)] == entries:
            del self.items[: len(entries)]
            return
        for entry in entries:
            self.remove(entry)

    def ahead_of(self, entry: Entry) -> int:
        """How many wait before this one's place."""
        return bisect_left(self.items, self._order(entry), key=self._order)


W = TypeVar("W", Entry, Seat)


class Ages(Generic[W]):
    """Who waits longest, and how many that came later left before: the measure of overtaking."""

    __slots__ = ("_waiting", "departed")

    def __init__(self) -> None:
        self.departed = 0
        """All that ever left, whether they waited here or got theirs from elsewhere."""
        self._waiting: dict[int, tuple[W, int]] = {}
        """Arrival number -> who, and what `departed` will be when all who came before are gone."""

    def add(self, member: W) -> None:
        """Silent if it waits here already."""
        self._waiting.setdefault(member.key[1], (member, self.departed + len(self._waiting)))

    def remove(self, *members: W) -> None:
        """Silent about those that do not wait here."""
        waiting = self._waiting
        self.departed += len(waiting)
        for member in members:
            waiting.pop(member.key[1], None)
        self.departed -= len(waiting)

    def members(self) -> list[W]:
        """The one that waits longest first."""
        return [member for member, _ in self._waiting.values()]

    def overdue(self, most: int) -> W | None:
        """The one that waits longest, if more than `most` that came later left before it."""
        if not self._waiting:
            return None
        oldest, mark = next(iter(self._waiting.values()))
        return oldest if self.departed - mark > most else None


class Queue:
    """The actions that wait for one resource: those whose amount is settled, in the order of
    service, and those whose amount the policy chooses, in the order that the policy gives them."""

    __slots__ = ("_patience", "_pushed", "ages", "elastic", "resource", "rigid")

    def __init__(self, resource: ResourceId) -> None:
        self.resource = resource
        self.ages: Ages[Entry] = Ages()
        self._patience: list[tuple[float, int, Entry]] = []
        self._pushed = 0
        """Tells apart the times that one action joined."""
        self.rigid = Line(attrgetter("key"))
        self.elastic = Line(attrgetter("rank"))

    def line_of(self, entry: Entry) -> Line:
        return self.elastic if entry.chooses(self.resource) else self.rigid

    def add(self, entry: Entry) -> None:
        line = self.line_of(entry)
        line.add(entry)
        entry.queued_at = self.resource
        self.ages.add(entry)
        if line is self.elastic and entry.patient_until_s < math.inf:
            self._pushed += 1
            heapq.heappush(self._patience, (entry.patient_until_s, self._pushed, entry))

    def remove(self, entry: Entry) -> None:
        self.line_of(entry).remove(entry)
        self.ages.remove(entry)
        entry.queued_at = None

    def let_go(self, line: Line, entries: list[Entry]) -> None:
        """These left in a pass."""
        line.remove_all(entries)
        self.ages.remove(*entries)

    def promote(self, now: float) -> None:
        """Those that waited longer than their patience come before all of their tier that did not,
        the first come first."""
        while self._patience and self._patience[0][0] <= now:
            entry = heapq.heappop(self._patience)[2]
            if entry.queued_at == self.resource:
                self.elastic.remove(entry)
                entry.rank = (entry.rank[0], IMPATIENT, *entry.key[1:])
                self.elastic.add(entry)

    def due(self) -> Entry | None:
        """The one of those that choose which has to be served before everybody else here."""
        first = self.elastic.items[0] if self.elastic.items else None
        if first is None or first.key[0] != FIRST or self.rigid_is_before(first):
            return None
        return first

    def rigid_is_before(self, entry: Entry) -> bool:
        """Whether one whose amount is settled goes before it."""
        return bool(self.rigid.items) and self.rigid.items[0].key < entry.key

    def blocks(self, entry: Entry) -> bool:
        """Whether somebody here goes before an action that waits elsewhere."""
        due = self.due()
        return self.rigid_is_before(entry) or (due is not None and due.key < entry.key)

    def __iter__(self) -> Iterator[Entry]:
        yield from self.rigid.items
        yield from self.elastic.items

    def ahead_of(self, entry: Entry) -> int:
        """How many are served before it, as far as the order alone tells."""
        behind = 0 if self.line_of(entry) is self.rigid else len(self.rigid.items)
        return behind + self.line_of(entry).ahead_of(entry)


K = TypeVar("K", Arrival, ResourceId)
Time: TypeAlias = float

_STALE_MIN = 64
"""Alarms: fewer dropped ones than this are not worth a clean-up."""


class Alarms(Generic[K]):
    """At most one time per key; a heap whose dropped members stay until they surface, or until
    they are the majority."""

    def __init__(self) -> None:
        self._times: dict[K, Time] = {}
        self._heap: list[tuple[Time, K]] = []

    def __len__(self) -> int:
        return len(self._times)

    def set(self, key: K, time: Time) -> None:
        if self._times.get(key) == time:
            return
        self._times[key] = time
        heapq.heappush(self._heap, (time, key))
        if len(self._heap) > 2 * len(self._times) + _STALE_MIN:
            self._heap = [(time, key) for key, time in self._times.items()]
            heapq.heapify(self._heap)

    def drop(self, key: K) -> None:
        self._times.pop(key, None)

    def next(self) -> Time | None:
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: Time) -> list[K]:
        """Takes out all that are not after `now`, earliest first."""
        keys: list[K] = []
        while (time := self.next()) is not None and time <= now:
            key = heapq.heappop(self._heap)[1]
            del self._times[key]
            keys.append(key)
        return keys
