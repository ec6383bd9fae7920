"""Ordered waiting: the queue of one resource, and alarms that wake a queue or expire an action.

Plain containers. They know keys and times, not why somebody waits or what a unit is.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from operator import attrgetter
from typing import Generic, TypeAlias, TypeVar

from .model import ResourceId
from .records import Entry, Key

_BY_KEY = attrgetter("key")


class Queue:
    """The actions that wait for one resource, the first to be served first."""

    __slots__ = ("fresh", "head", "items", "resource")

    def __init__(self, resource: ResourceId) -> None:
        self.resource = resource
        self.items: list[Entry] = []
        self.head: Entry | None = None
        """The one that the last pass found short: it blocks all behind it."""
        self.fresh: list[Entry] = []
        """Added since the last pass: nobody has told them yet why they wait."""

    def add(self, entry: Entry) -> None:
        insort(self.items, entry, key=_BY_KEY)
        entry.queued_at = self.resource

    def remove(self, entry: Entry) -> None:
        del self.items[self.ahead_of(entry)]
        entry.queued_at = None

    def ahead_of(self, entry: Entry) -> int:
        """How many wait before this key's place."""
        return bisect_left(self.items, entry.key, key=_BY_KEY)

    def first_is_older(self, entry: Entry) -> bool:
        return bool(self.items) and self.items[0].key < entry.key


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
