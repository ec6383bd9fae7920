"""Leases of tasks: who of the clients is still there. Pure bookkeeping over a given clock.

A lease belongs to the task and any of its clients renews it, by KeepAlive or by any call.
"""

from __future__ import annotations


class TaskLeases:
    """Until when each task's lease holds."""

    def __init__(self, default_lease_s: float) -> None:
        self._default_lease_s = default_lease_s
        self._until: dict[str, float] = {}
        self._length_s: dict[str, float] = {}

    def renew(self, task: str, now: float, lease_s: float | None = None) -> None:
        """Never shortens what holds already; without a length the last one named is used."""
        if lease_s is not None:
            self._length_s[task] = lease_s
        length_s = self._length_s.get(task, self._default_lease_s)
        self._until[task] = max(self._until.get(task, 0.0), now + length_s)

    def holds(self, task: str, now: float) -> bool:
        return self._until.get(task, 0.0) > now

    def expire(self, now: float) -> list[str]:
        """Tasks whose lease ran out since the last call; they are forgotten."""
        gone = [task for task, until in self._until.items() if until <= now]
        for task in gone:
            del self._until[task]
            self._length_s.pop(task, None)
        return gone
