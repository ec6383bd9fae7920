"""How many units a task may hold at once, and who waits because its task holds that many.

Of each limited task and kind of unit, no more is held and queued for together (at least amounts)
than the limit allows; whoever would be more waits in a line of its own, outside the queues. So a
queue never looks at those that a limit keeps, however many they are. Granting and queueing are
`matching`'s; this only counts and says who may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeAlias

from .model import MEMORY, UNITS_MAX, Action, EndReason, ResourceId
from .queue import Ages, Line
from .records import Entry
from .sentences import amount_of

ANY_TASK = "*"
"""In place of a task's name: limits of every task that has none of its own for that kind."""

Limits: TypeAlias = Mapping[str, Mapping[str, int]]
"""Task, or ANY_TASK -> kind of unit -> units that its actions hold at most at once."""


def check_limits(limits: Limits) -> None:
    """Raises ValueError that names the limit and what would be right."""
    for task, kinds in limits.items():
        for kind, units in kinds.items():
            if kind == MEMORY:
                raise ValueError(f"{task}: memory is held by trajectories, actions hold none")
            if type(units) is not int or not 0 < units <= UNITS_MAX:
                raise ValueError(f"{task}.{kind}: at least 1 unit, a whole number, not {units!r}")


@dataclass(slots=True, eq=False)
class Allowance:
    """Of one task and one kind."""

    kind: str
    limit: int
    held: int = 0
    claimed: int = 0
    """Least amounts of those that stand in queues."""
    queued: Line = field(default_factory=lambda: Line(attrgetter("key")))
    """Those that stand in queues: all of them could be granted without passing the limit."""
    line: Line = field(default_factory=lambda: Line(attrgetter("key")))
    """Those that would be too many."""
    ages: Ages[Entry] = field(default_factory=Ages)
    """Of the line."""

    @property
    def room(self) -> int:
        return self.limit - self.held - self.claimed

    @property
    def idle(self) -> bool:
        return not (self.held or self.queued.items or self.line.items)

    def need(self, entry: Entry) -> int:
        return sum(n for resource, n in entry.needs.items() if resource.kind == self.kind)

    def worse(self, entry: Entry) -> list[Entry] | None:
        """Queued ones that come later and have to stand back so that this one fits; None if it
        does not fit even so, or if others of its task go before it."""
        if self.line.items and self.line.items[0].key < entry.key:
            return None
        need, room, worse = self.need(entry), self.room, list[Entry]()
        for other in reversed(self.queued.items):
            if need <= room or other.key < entry.key:
                break
            room += self.need(other)
            worse.append(other)
        return worse if need <= room else None


class TaskLimits:
    """The allowances of all limited tasks that hold or want something."""

    def __init__(self, limits: Limits) -> None:
        check_limits(limits)
        self._limits = limits
        self.any = bool(limits)
        """Else there is nothing to count, and everybody may."""
        self.allowances: dict[tuple[str, str], Allowance] = {}
        self._touched: dict[tuple[str, str], None] = {}
        """Something came back, or the first of the line went: more may fit."""

    # What is allowed

    def most(self, task: str, kind: str) -> int:
        """Units that the task may hold at once."""
        own = self._limits.get(task, {}).get(kind)
        return own if own is not None else self._limits.get(ANY_TASK, {}).get(kind, UNITS_MAX)

    def spare(self, task: str, kind: str) -> int:
        """Units of it that the task may hold beside those that it holds."""
        if not self.any:
            return UNITS_MAX
        allowance = self.allowances.get((task, kind))
        return self.most(task, kind) - (allowance.held if allowance else 0)

    def refusal(self, action: Action) -> tuple[EndReason, str] | None:
        """Why its limit never lets this action run; None if it does."""
        demand = action.demand
        for kind, amounts in (*demand.per_node.items(), *demand.cluster.items()):
            most = self.most(action.task, kind)
            if amounts.minimum > most:
                asked, limit = amount_of(kind, amounts.minimum), amount_of(kind, most)
                message = f"needs {asked}, but the limit of task {action.task} is {limit} at once"
                return EndReason.INFEASIBLE, message
        return None

    # Who may queue

    def claim(self, entry: Entry) -> tuple[ResourceId | None, list[Entry]]:
        """Let it queue, if its limits allow. Else the resource at whose limit its task is. Those
        that come later and would be too many then are named, and still have to be held back."""
        late: dict[str, Entry] = {}
        allowances = self._allowances(entry)
        for resource, allowance in allowances.items():
            worse = allowance.worse(entry)
            if worse is None:
                self._hold_back(entry, resource, allowance)
                for other in allowances:
                    self._settle(entry.action.task, other.kind)
                return resource, []
            late.update((other.id, other) for other in worse)
        for allowance in allowances.values():
            allowance.queued.add(entry)
            allowance.claimed += allowance.need(entry)
        return None, list(late.values())

    def unclaim(self, entry: Entry) -> None:
        """A queued one leaves its queue: granted, ended, or to be held back."""
        for resource, allowance in self._allowances(entry).items():
            allowance.queued.remove(entry)
            allowance.claimed -= allowance.need(entry)
            self._settle(entry.action.task, resource.kind)

    def hold_back(self, entry: Entry) -> ResourceId:
        """One that was queued waits in the line of the first kind that is short."""
        allowances = self._allowances(entry)
        resource = next((r for r, a in allowances.items() if a.need(entry) > a.room), None)
        resource = resource or next(iter(allowances))
        self._hold_back(entry, resource, allowances[resource])
        for other in allowances:
            self._settle(entry.action.task, other.kind)
        return resource

    def moved(self, entry: Entry) -> None:
        """It has another place in its line: who is the first now may fit."""
        if entry.limited_at is not None:
            self._settle(entry.action.task, entry.limited_at.kind)

    def leave(self, entry: Entry) -> None:
        """Out of the line: it ended, or may be let in."""
        assert entry.limited_at is not None
        name = (entry.action.task, entry.limited_at.kind)
        self.allowances[name].line.remove(entry)
        self.allowances[name].ages.remove(entry)
        entry.limited_at = None
        self._settle(*name)

    def next_fitting(self) -> Entry | None:
        """The first of a line that would fit now. None if there is none left."""
        while self._touched:
            name = next(iter(self._touched))
            allowance = self.allowances.get(name)
            if allowance is not None and allowance.line.items:
                first = allowance.line.items[0]
                if allowance.need(first) <= allowance.room:
                    return first
            del self._touched[name]
        return None

    def overdue(self, most: int) -> list[Entry]:
        """Those that wait longest in touched lines, where more than `most` passed them."""
        if not self._touched:
            return []
        lines = (self.allowances[name].ages for name in self._touched if name in self.allowances)
        return [entry for ages in lines if (entry := ages.overdue(most)) is not None]

    def excess(self, task: str, kind: str) -> Entry | None:
        """The last of those queued, if more is held and queued for than the limit allows."""
        allowance = self.allowances.get((task, kind))
        if allowance is None or allowance.room >= 0 or not allowance.queued.items:
            return None
        return allowance.queued.items[-1]

    # What is held

    def hold(self, task: str, kind: str, units: int) -> None:
        """So many units more, or less if negative."""
        if units and (allowance := self._allowance(task, kind)) is not None:
            allowance.held += units
            self._settle(task, kind)

    def lines_of(self, entry: Entry) -> list[Line]:
        """All in which it stands, by its key."""
        if entry.limited_at is not None:
            return [self.allowances[entry.action.task, entry.limited_at.kind].line]
        if entry.queued_at is not None:
            return [allowance.queued for allowance in self._allowances(entry).values()]
        return []

    def ahead_of(self, entry: Entry) -> int:
        """How many of its task go before it."""
        assert entry.limited_at is not None
        return self.lines_of(entry)[0].ahead_of(entry)

    # Allowances

    def _hold_back(self, entry: Entry, resource: ResourceId, allowance: Allowance) -> None:
        entry.limited_at = resource
        allowance.line.add(entry)
        allowance.ages.add(entry)

    def _allowances(self, entry: Entry) -> dict[ResourceId, Allowance]:
        if not self.any:
            return {}
        task = entry.action.task
        found = ((r, self._allowance(task, r.kind)) for r in entry.needs)
        return {resource: allowance for resource, allowance in found if allowance is not None}

    def _allowance(self, task: str, kind: str) -> Allowance | None:
        """None without a limit."""
        if not self.any or (most := self.most(task, kind)) == UNITS_MAX:
            return None
        allowance = self.allowances.get((task, kind))
        if allowance is None:
            allowance = self.allowances[task, kind] = Allowance(kind, most)
        return allowance

    def _settle(self, task: str, kind: str) -> None:
        """Something of it changed: forget it if nothing is left, else more may fit."""
        allowance = self.allowances[task, kind]
        if allowance.idle:
            del self.allowances[task, kind]
        elif allowance.line.items:
            self._touched[task, kind] = None
