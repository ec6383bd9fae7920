"""The commit seam: what stands between "accepted" and both "acknowledged" and "executed".

Every event passes `commit` before the scheduler's decisions about it are executed or anybody is told.
This log is in memory; it feeds `explain` and `Get`, and a durable journal takes its place behind the
same method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..scheduler import CancelAllRequested, Decision, Event

ENTRIES_PER_ACTION_MAX = 64
"""Kept of one action's history; resizes can make it long, the rest is about eight entries. Beyond,
one from the middle goes: its beginning and its end tell most."""

LogItem = Event | Decision


class EventLog(Protocol):
    """Where events become facts."""

    waits: bool
    """Whether `commit` may wait, as for a disk. Of a log that never does, the pump needs no task."""

    async def commit(self, at: float, events: Sequence[Event]) -> None:
        """On return the events are kept as surely as this log keeps anything."""
        ...

    def decided(self, at: float, decisions: Sequence[Decision]) -> None:
        """Notes what followed from committed events; may be written with the next commit."""
        ...

    def about(self, action: str) -> Sequence[tuple[float, LogItem]]:
        """The history of one action, oldest first."""
        ...

    def forget(self, action: str) -> None:
        """The action is no longer retained."""
        ...


class MemoryLog:
    """Events and decisions in memory, by action."""

    waits = False

    def __init__(self) -> None:
        self._by_action: dict[str, list[tuple[float, LogItem]]] = {}

    async def commit(self, at: float, events: Sequence[Event]) -> None:
        for event in events:
            self._note(at, event)

    def decided(self, at: float, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self._note(at, decision)

    def about(self, action: str) -> Sequence[tuple[float, LogItem]]:
        return self._by_action.get(action, ())

    def forget(self, action: str) -> None:
        self._by_action.pop(action, None)

    def _note(self, at: float, item: LogItem) -> None:
        for action in _subjects(item):
            entries = self._by_action.setdefault(action, [])
            entries.append((at, item))
            if len(entries) > ENTRIES_PER_ACTION_MAX:
                del entries[ENTRIES_PER_ACTION_MAX // 2]


def _subjects(item: LogItem) -> Sequence[str]:
    """The ids of the actions that it is about."""
    if isinstance(item, CancelAllRequested):
        return item.actions
    subject = getattr(item, "action", None)
    if subject is None:
        return ()
    return (subject if isinstance(subject, str) else subject.id,)
