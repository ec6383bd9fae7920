"""Who holds what: the one place where an action's amounts change.

Keeps the views, the entry, the predictions of ends, the limits of tasks and the order's account in
step. Who may have what is decided before anybody comes here.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from .limits import TaskLimits
from .load import Load
from .model import ResourceId
from .pool import Pool
from .ranking import Ranking
from .records import Entry
from .resource import Preparing
from .running import Running


class Ledger:
    """Grants, as booked."""

    def __init__(self, pool: Pool, limits: TaskLimits, ranking: Ranking, *, predicts: bool) -> None:
        """`predicts`: the policy asks for `running` and `loads`, so they are worth their cost."""
        self.running: dict[ResourceId, Running] = {}
        """Per resource, the granted actions of which it is the key resource."""
        self.loads: dict[ResourceId, Load] = {}
        """Alike, what was learned of those that want or hold it."""
        self._predicts = predicts
        self._pool = pool
        self._limits = limits
        self._ranking = ranking

    def enter(self, entry: Entry, now: float) -> None:
        """It joins a queue. It may be told again."""
        if self._predicts and (key := entry.key_resource) is not None:
            if (load := self.loads.get(key)) is None:
                load = self.loads[key] = Load(now)
            load.enter(entry, entry.needs[key], now)

    def leave(self, entry: Entry, now: float) -> None:
        """It waits no more without having got anything, or holds nothing any more."""
        key = entry.key_resource
        if key is not None and (load := self.loads.get(key)) is not None:
            load.leave(entry, now)

    def take(self, entry: Entry, amounts: Mapping[ResourceId, int], now: float) -> None:
        """All under the entry's token, which is new. `took` has to follow."""
        service = entry.action.service
        self._pool.take(entry.token, amounts, now, service)
        self._note(entry, amounts)
        entry.since_s = now + self._prepare_s(entry) if service else now

    def took(self, entries: Sequence[Entry], now: float) -> None:
        """What these have been granted at `now`: their ends can be predicted, their order's
        account be charged."""
        if self._predicts:
            for key, group in groupby(entries, attrgetter("key_resource")):
                if key is not None:
                    self.running.setdefault(key, Running(key)).start(group)
        for entry in entries:
            self._ranking.took(entry, now)

    def adopt(self, entry: Entry, resource: ResourceId, amount: int, now: float) -> bool:
        """A node says that it holds this since some time ago. False if there is not so much."""
        if resource in entry.amounts:
            if not self._pool.could_resize(entry.token, {resource: amount}, now):
                return False
            self._pool.resize(entry.token, {resource: amount}, now)
        elif amount > self._pool.free(resource, now):
            return False
        else:
            self._pool.take(entry.token, {resource: amount}, now, entry.action.service)
        self._note(entry, {**entry.amounts, resource: amount})
        self._ranking.took(entry, now)
        return True

    def change(self, entry: Entry, amounts: Mapping[ResourceId, int], now: float) -> None:
        """Other amounts of what it holds, which fit."""
        key = entry.key_resource
        running = self.running.get(key) if key is not None else None
        if running is not None:
            running.advance(entry, now)
        self._pool.resize(entry.token, amounts, now)
        self._note(entry, amounts)
        if running is not None:
            running.resume(entry)
        self._ranking.changed(entry, now)

    def give(self, entry: Entry, now: float) -> None:
        """All of it is free. Resources of a node that is gone are passed over."""
        self._pool.give(entry.token, entry.amounts, now)
        self.leave(entry, now)
        self._predict_no_more(entry, entry.amounts)
        self._note(entry, {})
        entry.token, entry.change = 0, 0

    def give_part(self, entry: Entry, resources: Collection[ResourceId], now: float) -> None:
        """These are free; the rest it holds still."""
        self._pool.give(entry.token, resources, now)
        self._predict_no_more(entry, resources)
        self._note(entry, {r: n for r, n in entry.amounts.items() if r not in resources})
        self._ranking.changed(entry, now)

    def _predict_no_more(self, entry: Entry, resources: Container[ResourceId]) -> None:
        key = entry.key_resource
        if key is not None and key in resources and (running := self.running.get(key)) is not None:
            running.drop(entry)

    def drop_gone(self) -> None:
        """What was learned of resources that are gone."""
        for booked in (self.running, self.loads):
            for resource in [r for r in booked if r not in self._pool.views]:
                del booked[resource]

    def _prepare_s(self, entry: Entry) -> float:
        """How long it takes to make what it was granted ready for its service."""
        views = [self._pool.views[resource] for resource in entry.amounts]
        return sum(v.preparing_s(entry.token) for v in views if isinstance(v, Preparing))

    def _note(self, entry: Entry, amounts: Mapping[ResourceId, int]) -> None:
        if self._limits.any:
            for resource in {**entry.amounts, **amounts}:
                change = amounts.get(resource, 0) - entry.amounts.get(resource, 0)
                self._limits.hold(entry.action.task, resource.kind, change)
        entry.amounts = amounts
