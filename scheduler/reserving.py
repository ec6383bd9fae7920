"""Who was overtaken, and the units kept for those who were often enough.

A reservation is an action that is served before everybody else from now on: its key's rank is
FIRST, and whatever comes behind it has to leave its amounts intact, everywhere. Heads of queues are
exposed at the other resources that they will need: those are what others can take at their cost.
"""

from __future__ import annotations

from .model import ResourceId
from .records import Entry


class Reservations:
    """The reserved actions that wait in a queue, and the heads that can be overtaken."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        """The reserved ones, by id."""
        self.exposed: dict[ResourceId, dict[str, Entry]] = {}
        """Resource -> the heads of other queues that will need it, by id."""

    def add(self, entry: Entry) -> None:
        self.entries[entry.id] = entry

    def drop(self, entry: Entry) -> bool:
        """It waits in no queue any more. False if it was none."""
        return self.entries.pop(entry.id, None) is not None

    def kept(self, resource: ResourceId) -> list[int]:
        """Amounts of the resource that are kept from everybody who is not reserved, one for each
        reservation: how much is left beside them, its operator knows."""
        return [e.needs[resource] for e in self.entries.values() if resource in e.needs]

    def kept_from(self, entry: Entry, resource: ResourceId) -> list[int]:
        """Amounts of the resource that are kept from this one."""
        return [
            other.needs[resource]
            for other in self.entries.values()
            if resource in other.needs and other is not entry and other.key < entry.key
        ]

    def expose(self, head: Entry, here: ResourceId) -> None:
        """It heads the queue of `here`, and will need more than that."""
        for resource in head.needs:
            if resource != here:
                self.exposed.setdefault(resource, {})[head.id] = head

    def hide(self, head: Entry) -> None:
        for resource in head.needs:
            exposed = self.exposed.get(resource, {})
            if exposed.pop(head.id, None) is not None and not exposed:
                del self.exposed[resource]

    def overtaken_by(self, granted: Entry) -> list[Entry]:
        """Exposed actions that go before this one and will need what it took."""
        overtaken: dict[str, Entry] = {}
        for resource in granted.needs:
            for head in self.exposed.get(resource, {}).values():
                if head.key < granted.key and not head.reserved:
                    overtaken[head.id] = head
        return list(overtaken.values())
