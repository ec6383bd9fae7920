"""The order `group`: what holds up a nearly finished group goes first.

A GRPO group trains when its last trajectory is done, and a step when its last group is; so an
action is worth more the fewer of its group's (else its step's) trajectories are open. Each open one
counts as so many seconds of waiting, so that nobody can be overtaken for longer than that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from .model import Action, Trajectory
from .ranking import Ranking
from .records import Entry, Seat

EXACT_MAX = 16
"""Up to so many open trajectories each one counts; above, only powers of two. A step of thousands
then moves its members a dozen times, not thousands of times."""

Cohort: TypeAlias = tuple[str, str, int | None]
"""(task, group, step): a group of a task, else a step of it."""


class Members:
    """One cohort: how many of its trajectories are open, and who waits."""

    __slots__ = ("left", "open", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.left = 0
        """As it counts in the ranks."""
        self.waiting: dict[str, Entry | Seat] = {}


class GroupAware(Ranking):
    """Rank: arrival + `ageing_s` x open trajectories of its group or step. Those of neither have
    nothing added. A tier is as wide as one open trajectory. Priorities are not looked at."""

    def __init__(self, ageing_s: float) -> None:
        self._ageing_s = ageing_s
        self._cohorts: dict[Cohort, Members] = {}
        self._moved: dict[Cohort, None] = {}

    def of_action(self, entry: Entry, priority: int) -> float:
        cohort = cohort_of(entry.action)
        if cohort is not None:
            self._members(cohort).waiting[f"a:{entry.id}"] = entry
        return self._rank(entry.submitted, cohort)

    def of_trajectory(self, seat: Seat) -> float:
        cohort = cohort_of(seat.trajectory)
        if cohort is not None:
            members = self._members(cohort)
            members.waiting[f"t:{seat.trajectory.id}"] = seat
            self._count(cohort, members, +1)
        return self._rank(seat.opened, cohort)

    def tier(self, rank: float) -> float:
        return rank // self._ageing_s

    def took(self, entry: Entry, now: float) -> None:
        self._stops_waiting(cohort_of(entry.action), f"a:{entry.id}")

    def settled(self, entry: Entry, now: float) -> None:
        self._stops_waiting(cohort_of(entry.action), f"a:{entry.id}")

    def placed(self, seat: Seat, now: float) -> None:
        self._stops_waiting(cohort_of(seat.trajectory), f"t:{seat.trajectory.id}")

    def closed(self, seat: Seat, now: float) -> None:
        cohort = cohort_of(seat.trajectory)
        if cohort is not None:
            self._count(cohort, self._cohorts[cohort], -1)
        self._stops_waiting(cohort, f"t:{seat.trajectory.id}")

    def moved(self) -> Iterable[tuple[Entry | Seat, float]]:
        moved, self._moved = self._moved, {}
        return [
            (member, self._rank(_arrived(member), cohort))
            for cohort in moved
            if cohort in self._cohorts
            for member in self._cohorts[cohort].waiting.values()
        ]

    def _rank(self, arrived: float, cohort: Cohort | None) -> float:
        left = self._cohorts[cohort].left if cohort is not None else 0
        return arrived + self._ageing_s * left

    def _members(self, cohort: Cohort) -> Members:
        return self._cohorts.setdefault(cohort, Members())

    def _count(self, cohort: Cohort, members: Members, change: int) -> None:
        members.open += change
        left = members.open
        if left > EXACT_MAX:
            left = 1 << (left - 1).bit_length()
        if left != members.left:
            members.left = left
            self._moved[cohort] = None

    def _stops_waiting(self, cohort: Cohort | None, name: str) -> None:
        members = self._cohorts.get(cohort) if cohort is not None else None
        if cohort is None or members is None:
            return
        members.waiting.pop(name, None)
        if not members.open and not members.waiting:
            del self._cohorts[cohort]


def cohort_of(member: Action | Trajectory) -> Cohort | None:
    """Its group, else its step; None without either."""
    if member.group:
        return (member.task, member.group, None)
    return (member.task, "", member.step) if member.step is not None else None


def _arrived(member: Entry | Seat) -> float:
    return member.submitted if isinstance(member, Entry) else member.opened
