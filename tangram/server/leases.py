"""Which tasks have somebody: leases that clients renew, and when a task was last heard of.

Pure bookkeeping over a given clock. A **lease** is renewed by KeepAlive alone; any other call that
acts for a task is a **sign of life**, after which its trajectories stay for the default lease. Looking
(status, explain, list) is neither.
"""

from __future__ import annotations


class TaskLeases:
    """Until when each task's lease, or the grace after its last sign of life, holds."""

    def __init__(self, default_lease_s: float) -> None:
        self._default_lease_s = default_lease_s
        self._leased_until: dict[str, float] = {}
        self._alive_until: dict[str, float] = {}

    def renew(self, task: str, now: float, lease_s: float) -> None:
        """A client keeps the task for so long. Never shortens what holds already."""
        self._leased_until[task] = max(self._leased_until.get(task, 0.0), now + lease_s)

    def touch(self, task: str, now: float) -> None:
        """A sign of life."""
        self._alive_until[task] = now + self._default_lease_s

    def leased(self, task: str, now: float) -> bool:
        """Whether a lease holds: actions of the task may run with nobody asking for them."""
        return self._leased_until.get(task, 0.0) > now

    def alive(self, task: str, now: float) -> bool:
        """Whether its trajectories stay."""
        return self.leased(task, now) or self._alive_until.get(task, 0.0) > now

    def forget_past(self, now: float) -> None:
        """Drop what holds no more."""
        for until_of in (self._leased_until, self._alive_until):
            for task in [task for task, until in until_of.items() if until <= now]:
                del until_of[task]
