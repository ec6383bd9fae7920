"""Ordered waiting: the queue of one resource, and alarms that wake a queue or expire an action.

Plain containers. They know keys and times, not why somebody waits or what a unit is.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Generic, TypeAlias, TypeVar

from .model import ResourceId
from .records import Entry, Key, Rank

IMPATIENT = -1.0
"""The rank within its class of whoever waited too long: before every duration."""


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
        del self.items[self.ahead_of(entry)]

    def ahead_of(self, entry: Entry) -> int:
        """How many wait before this one's place."""
        return bisect_left(self.items, self._order(entry), key=self._order)


class Queue:
    """The actions that wait for one resource: those whose amount is settled, in the order of
    service, and those whose amount the policy chooses, in the order that the policy gives them."""

    __slots__ = ("_ages", "_patience", "elastic", "granted", "resource", "rigid")

    def __init__(self, resource: ResourceId) -> None:
        self.resource = resource
        self.granted = 0
        """Grants of the resource so far."""
        self._ages: dict[str, Entry] = {}
        self._patience: list[tuple[float, int, Entry]] = []
        self.rigid = Line(attrgetter("key"))
        self.elastic = Line(attrgetter("rank"))

    def line_of(self, entry: Entry) -> Line:
        return self.elastic if entry.chooses(self.resource) else self.rigid

    def add(self, entry: Entry) -> None:
        line = self.line_of(entry)
        line.add(entry)
        entry.queued_at = self.resource
        if line is self.elastic:
            entry.mark = self.granted
            self._ages[entry.id] = entry
            heapq.heappush(self._patience, (entry.patient_until_s, entry.key[1], entry))

    def remove(self, entry: Entry) -> None:
        self.line_of(entry).remove(entry)
        self._ages.pop(entry.id, None)
        entry.queued_at = None

    def promote(self, now: float) -> None:
        """Those that waited longer than their patience come before all that did not, the first
        come first."""
        while self._patience and self._patience[0][0] <= now:
            entry = heapq.heappop(self._patience)[2]
            if self._ages.get(entry.id) is entry:
                self.elastic.remove(entry)
                entry.rank = (entry.rank[0], IMPATIENT, *entry.key[1:])
                self.elastic.add(entry)

    def oldest(self) -> Entry:
        """Of those whose amount is chosen, the one that stands here longest."""
        return next(iter(self._ages.values()))

    def __iter__(self) -> Iterator[Entry]:
        yield from self.rigid.items
        yield from self.elastic.items

    def ahead_of(self, entry: Entry) -> int:
        """How many are served before it, as far as the order alone tells."""
        behind = 0 if self.line_of(entry) is self.rigid else len(self.rigid.items)
        return behind + self.line_of(entry).ahead_of(entry)

    def first_is_older(self, entry: Entry) -> bool:
        return bool(self.rigid.items) and self.rigid.items[0].key < entry.key


K = TypeVar("K", Key, ResourceId)
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
