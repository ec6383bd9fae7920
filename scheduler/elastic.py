"""The policy `elastic`: amounts by a price on units, shortest first, waiting where it pays.

Better than the published algorithm where that one is short-sighted: it grants up to the maximum
when nobody waits yet, and starts long actions on the few units that happen to be free. Here

1. units have a price: what a unit-second costs those who wait behind, those who run, and those who
   are expected to come (`load`). An action wants the amount for which its own run time plus the
   price of its unit-seconds is least;
2. an action waits for units that are known to come free (predicted ends of running actions) when
   it ends sooner so, the price counted in;
3. some free units are kept for actions whose amount is settled, as many as the recent past needed;
4. the shortest comes first, and whoever waited many times its own length before it;
5. actions that may change while they run share out what the others leave (`moving`).

The price is the marginal delay of an M/G/1 queue in form; its weights were found by search on the
workloads of docs/benchmarks.md, on other seeds than those that its tables show.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .choices import Choices
from .moving import SHARED_MAX, move
from .operators import LinearUnits
from .placed import Placing
from .records import Entry, Rank
from .situation import Plan, Situation

REVIEW_S = 1.0
"""While units are kept for settled actions that do not come, who waits is looked at so often."""

KEPT_OF_MOVING = 8
"""At most one in so many units is kept for settled actions where running ones may give units back."""


@dataclass(frozen=True, slots=True)
class Elastic:
    """The weights of the price, each per unit of the resource."""

    behind: float = 3.0
    """For each action that waits behind."""
    running: float = 0.1
    """For each that runs."""
    expected: float = 2.5
    """For those that are expected: times rho / (1 - rho)^2, rho the load of the recent past."""
    idle: float = 0.4
    """Always: units are worth something even when nobody else is there."""
    load_max: float = 0.75
    """Rho counts at most as this."""
    patience: float = 4.0
    """An action that waited so many times its own duration comes before all shorter ones."""
    patience_service: float = 100.0
    """The same of one that asks a service: those of one service follow each other, and to go back
    to another too soon costs all of them a restore."""
    hold_price: float = 1.0
    """How much dearer unit-seconds are in deciding whether to wait."""
    keep: float = 1.0
    """Share of the mean need of settled actions that is kept free for them."""
    reserve: float = 0.0
    """Standard deviations of the need of settled actions that are kept free beside its mean."""
    to_come: float = 8.0
    """How many more a running action holds up that may give units back: times rho / (1 - rho)."""
    shortest: bool = True
    """Else who came first."""
    waits: bool = True
    """Else whoever finds at least its least amount free starts with what is there."""

    @property
    def merged(self) -> bool:
        return False

    def rank(self, entry: Entry) -> Rank:
        """Within a tier of the order the shortest first."""
        assert entry.choices is not None
        length_s = entry.choices.durations_s[0] if self.shortest else 0.0
        return (entry.tier, length_s, entry.key[1], entry.id)

    def patience_s(self, entry: Entry) -> float:
        assert entry.choices is not None
        patience = self.patience_service if entry.action.service else self.patience
        return patience * entry.choices.durations_s[0]

    def arrange(self, situation: Situation) -> Plan:
        """Nobody starts if none of the waiting may (`fitting` is 0): then only those that run may
        change."""
        waiting: Sequence[Entry] = situation.waiting if situation.fitting else ()
        if situation.due is not None and isinstance(situation.operator, LinearUnits):
            return self._start_or_free(situation, situation.due)
        if situation.due is not None:
            return self._place(situation, [situation.due], situation.free)
        kept = self._kept(situation)
        if not isinstance(situation.operator, LinearUnits):
            return self._place(situation, waiting, situation.free - kept)
        if situation.running.malleable or (waiting and waiting[0].action.malleable):
            return self._start_and_move(situation, waiting[:SHARED_MAX], kept)
        return self._start(situation, waiting, situation.free - kept)

    def _start_or_free(self, situation: Situation, due: Entry) -> Plan:
        """It starts, or those that may change give back as much as it wants, and get no more."""
        plan, running = self._start(situation, [due], situation.free), situation.running
        if plan.starts or not running.malleable:
            return plan
        assert due.choices is not None
        price = self._base_price(situation, max(1, situation.view.total))
        wanted = due.choices.units[cheapest(due.choices, price)]
        moves = move(
            situation,
            (),
            free=0,
            budget=situation.free + running.held() - running.keeping() - wanted,
            expected=0.0,
            pressed=True,
        )
        return Plan((), min(plan.again_s, moves.again_s), moves.resizes)

    def _place(self, situation: Situation, waiting: Sequence[Entry], free: int) -> Plan:
        """The same where units are not all alike."""
        total = max(1, situation.view.total)
        price = self._base_price(situation, total)
        plan = Placing(situation, price, self.behind / total).plan(waiting, free)
        review_s = situation.now + REVIEW_S if free < situation.free and waiting else math.inf
        return replace(plan, again_s=min(plan.again_s, review_s))

    def _start(self, situation: Situation, waiting: Sequence[Entry], free: int) -> Plan:
        """In their order, each with what it wants, until one has to wait."""
        total = max(1, situation.view.total)
        review_s = situation.now + REVIEW_S if free < situation.free else math.inf
        if free <= 0 or not waiting:
            return Plan((), review_s if waiting else math.inf)
        now, base, wanted = situation.now, self._base_price(situation, total), 0
        starts: list[tuple[Entry, int]] = []
        ends: list[tuple[float, int]] = []
        for behind, entry in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
            choices = entry.choices
            assert choices is not None
            price = base + self.behind * behind / total
            wanted = cheapest(choices, price, wanted)
            units = choices.units[wanted]
            if units > free:
                at_s, wanted = self._when(choices, wanted, free, price, situation, ends)
                units = choices.units[wanted]
                if at_s > now or units > free:
                    return Plan(starts, min(at_s, review_s))
            starts.append((entry, units))
            ends.append((now + choices.durations_s[wanted], units))
            free -= units
        return Plan(starts)

    def _start_and_move(self, situation: Situation, waiting: Sequence[Entry], kept: int) -> Plan:
        """First those that keep what they get, then the rest is shared out among all others."""
        # Little is kept free: who may change gives back in a moment what is wanted.
        kept = min(kept, situation.view.total // KEPT_OF_MOVING)
        free = situation.free - kept
        keeping = [entry for entry in waiting if not entry.action.malleable]
        plan = self._start(situation, keeping, free)
        started = sum(units for _, units in plan.starts)
        yielded = self._yielded(situation, keeping[len(plan.starts) :])
        load, busy = situation.load, self._busy(situation)
        others = load.rigid + situation.running.keeping() + started + yielded + kept
        moves = move(
            situation,
            [entry for entry in waiting if entry.action.malleable],
            free=free - started,
            budget=situation.view.total - others,
            expected=self.to_come * busy / (1 - busy),
            pressed=yielded > 0 or load.rigid > situation.view.taken - situation.running.held(),
        )
        review_s = situation.now + REVIEW_S if waiting or kept else math.inf
        again_s = min(plan.again_s, moves.again_s, review_s)
        return Plan([*plan.starts, *moves.starts], again_s, moves.resizes)

    def _yielded(self, situation: Situation, waiting: Sequence[Entry]) -> int:
        """Units that running actions give up for the first of these, which keep what they get: as
        many as it wants, if it has less work than what is left to each of them. Else one of those
        ends sooner, and is waited for. For one at a time: what they give is there in a moment."""
        running = situation.running
        if not waiting or not running.malleable:
            return 0
        first, total = waiting[0], max(1, situation.view.total)
        left_s = min(running.work_s(entry, situation.now) for entry in running.malleable.values())
        if (choices := first.choices) is None or choices.work_s >= left_s:
            return 0
        price = self._base_price(situation, total) + self.behind * (len(waiting) - 1) / total
        return choices.units[cheapest(choices, price)]

    def _busy(self, situation: Situation) -> float:
        """The load of the recent past: units wanted per unit that there is."""
        load, now = situation.load, situation.now
        wanted = load.choosing_work(now) + load.rigid_mean(now)
        return min(self.load_max, wanted / max(1, situation.view.total))

    def _kept(self, situation: Situation) -> int:
        """Free units that settled actions will need soon: as many as on average, less those that
        they have. Nothing is kept from an empty machine."""
        mean = situation.load.rigid_mean(situation.now)
        need = self.keep * mean + self.reserve * math.sqrt(mean) - situation.load.rigid
        kept = max(0, math.ceil(need - 0.5))
        return kept if situation.running.choosing else min(kept, max(0, situation.free - 1))

    def _base_price(self, situation: Situation, total: int) -> float:
        """Of a unit-second, in seconds, before those who wait behind are counted."""
        busy = self._busy(situation)
        expected = self.expected * busy / (1 - busy) ** 2
        return (self.running * situation.running.choosing + expected + self.idle) / total

    def _when(
        self,
        choices: Choices,
        wanted: int,
        free: int,
        price: float,
        situation: Situation,
        started: list[tuple[float, int]],
    ) -> tuple[float, int]:
        """When the action should start, and with which choice, if what it wants is not free: the
        moment, among now and the predicted ends of others, for which its end is the earliest, its
        unit-seconds counted in. Never, if nothing is known to come free."""
        now, price = situation.now, price * self.hold_price
        units, durations_s = choices.units, choices.durations_s
        best_s, when = math.inf, (math.inf, wanted)
        if (index := choices.at_most(free)) is not None:
            best_s, when = now + durations_s[index] * (1 + price * units[index]), (now, index)
            if not self.waits:
                return when
        least_s = durations_s[wanted] * (1 + price * units[wanted])
        for end_s, freed in heapq.merge(
            situation.running.ends(now, choosing=True), sorted(started)
        ):
            if end_s + least_s >= best_s or free >= units[wanted]:
                break
            free += freed
            if (index := choices.at_most(free)) is None:
                continue
            index = min(index, wanted)
            value_s = end_s + durations_s[index] * (1 + price * units[index])
            if value_s < best_s:
                best_s, when = value_s, (end_s, index)
        return when


def cheapest(choices: Choices, price: float, near: int = 0) -> int:
    """Index of the choice whose run time, unit-seconds at `price` added, is least. `near` is where
    to look first, for choices whose gains never rise: there the cost falls towards the least."""
    units, durations_s = choices.units, choices.durations_s
    if not choices.steady:
        costs = [run_s * (1 + price * m) for m, run_s in zip(units, durations_s, strict=True)]
        return costs.index(min(costs))
    last = len(units) - 1
    index = min(near, last)
    least = durations_s[index] * (1 + price * units[index])
    while index < last:
        cost = durations_s[index + 1] * (1 + price * units[index + 1])
        if cost >= least:
            break
        index, least = index + 1, cost
    while index:
        cost = durations_s[index - 1] * (1 + price * units[index - 1])
        if cost >= least:
            break
        index, least = index - 1, cost
    return index
