"""Cores of one node that many actions share, as a kernel shares them: max-min fair and preemptive.

Each action asks for at most its own cap. Actions of the same cap and the same elasticity get equal
shares at every instant, so they advance together: a class keeps how much work one member has done
since the start of time, and a member ends when that has grown by its own work. An event costs the
number of classes and a heap, not the number of actions (virtual time, as in fair queueing; Parekh
and Gallager, IEEE/ACM Transactions on Networking 1, 1993).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..model import Profile

Curve = tuple[float | None, tuple[tuple[int, float], ...]]
"""What of a profile tells its speed: serial share, table."""


def speed(profile: Profile, cores: float) -> float:
    """One-core seconds of work that an action does in a second with so many cores.

    With c < 1 core it is c: a share of one core's time. From one core on it is c E(c), the duration
    function of the scheduler, at fractional c too: the elasticity is that of the cores it gets, not
    of the number of its threads. Between entries of a table, E is linear in 1/c, so c E(c) is
    linear in c."""
    if cores <= 1:
        return cores
    if profile.serial is not None:
        return cores / (1 + profile.serial * (cores - 1))
    below = math.floor(cores)
    slow = below * profile.efficiency(below)
    if below == cores:
        return slow
    fast = (below + 1) * profile.efficiency(below + 1)
    return slow + (cores - below) * (fast - slow)


def level(cores: float, asks: Sequence[tuple[float, int]]) -> float:
    """The share that nobody exceeds when `cores` are shared max-min fairly among `asks`, pairs of a
    cap and how many ask for so much, in the order of the caps. Infinite if all get their cap."""
    left = cores
    members = sum(count for _, count in asks)
    for cap, count in asks:
        if cap * members > left:
            return left / members
        left -= cap * count
        members -= count
    return math.inf


@dataclass(slots=True, eq=False)
class _Class:
    """All that run on one node with one cap and one curve."""

    cap: float
    profile: Profile
    count: int = 0
    work: float = 0.0
    """One-core seconds that a member has done since the start of time."""
    core_s: float = 0.0
    """Core-seconds that it got for it."""
    share: float = 0.0
    speed: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)
    """When `work` has grown so far, this member ends. Removed members stay until they surface."""


class SharedNode:
    """The cores of one node and the actions that share them. `advance` to the present before
    anything is added or removed. Members are integers, growing with every `add`."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._now = 0.0
        self._classes: dict[tuple[float, Curve], _Class] = {}
        self._ordered: list[_Class] = []
        self._members: dict[int, tuple[_Class, float]] = {}
        """Its class, and the core-seconds that the class had when it came."""
        self._last = 0

    def advance(self, now: float) -> None:
        passed_s, self._now = now - self._now, now
        for group in self._ordered:
            if group.count:
                group.work += passed_s * group.speed
                group.core_s += passed_s * group.share

    def add(self, cap: float, profile: Profile, work: float) -> int:
        """An action that asks for at most `cap` cores to do `work` one-core seconds."""
        curve = (profile.serial, tuple(profile.elasticity.items())) if cap > 1 else (None, ())
        group = self._classes.get((cap, curve))
        if group is None:
            group = self._classes[cap, curve] = _Class(cap, profile)
            self._ordered.append(group)
            self._ordered.sort(key=lambda other: other.cap)
        self._last += 1
        group.count += 1
        self._members[self._last] = (group, group.core_s)
        heapq.heappush(group.ends, (group.work + work, self._last))
        self._share()
        return self._last

    def remove(self, member: int) -> float:
        """The core-seconds that it got."""
        group, before = self._members.pop(member)
        group.count -= 1
        got = group.core_s - before
        if not group.count:
            # Nobody looks back any more: start again from zero, where floats are finest.
            group.work = group.core_s = 0.0
            group.ends.clear()
        self._share()
        return got

    def next_end(self) -> tuple[float, int] | None:
        """When who ends, if nothing changes before; None if nobody runs."""
        soonest: tuple[float, int] | None = None
        for group in self._ordered:
            while group.ends and group.ends[0][1] not in self._members:
                heapq.heappop(group.ends)
            if group.ends:
                goal, member = group.ends[0]
                end_s = self._now + max(0.0, goal - group.work) / group.speed
                if soonest is None or (end_s, member) < soonest:
                    soonest = (end_s, member)
        return soonest

    def _share(self) -> None:
        most = level(self._cores, [(group.cap, group.count) for group in self._ordered])
        for group in self._ordered:
            share = min(group.cap, most)
            if share != group.share:
                group.share, group.speed = share, speed(group.profile, share)
