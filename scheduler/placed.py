"""Amounts on units whose place matters: which of the waiting start now on which size of chunk.

Serves the policy `elastic` where not any units make a grant (GPUs in aligned chunks), or where they
have to be made ready for it (a service is restored). Three things differ from units that are all
alike: what fits together is the operator's answer; the time to prepare is part of what an amount
costs; and whoever finds its service ready goes before a longer one that would have to restore it, so
that actions of one service follow each other as far as patience allows. Which chunk is taken is the
view's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from .operators import Operator
from .queue import IMPATIENT
from .records import Entry
from .resource import Preparing
from .situation import Plan, Situation

PREPARE_SHARE = 0.25
"""Of the time to prepare, what an action is charged for in choosing its amount: what was prepared
stays for those that follow, so all of it would hold everybody to the amount that is ready. Found on
seeds 0 and 1 of `mopd-deepsearch`; the order, where nobody else gains, counts all of it."""

LOOK_MAX = 512
"""Waiting actions that are looked at in one pass, the first in order: who starts is among them, and
what each of them would have to prepare is asked anew every time."""


class Choice(NamedTuple):
    """What an action would come to, in seconds, its unit-seconds counted in, if it started then
    with so many units."""

    value_s: float
    at_s: float
    units: int


ENDS_MAX = 64
"""Predicted ends that are looked at for one action, the first to come: whoever waits for more than
these is asked again at the next of them."""

Times: TypeAlias = dict[tuple[str, int], float]
"""(service, amount) -> seconds to prepare."""


class Freed(NamedTuple):
    """What will be there when one more holder has ended."""

    end_s: float
    token: int
    left: Operator
    units: int
    """All that came free until then, beyond what is free now."""


class Placing:
    """One pass over the waiting actions. `price` is that of a unit-second in seconds before those
    who wait behind are counted, `behind` what each of these adds to it."""

    def __init__(self, situation: Situation, price: float, behind: float) -> None:
        self._situation = situation
        self._price = price
        self._behind = behind
        self._left: Operator = situation.operator
        self._ready = situation.view if isinstance(situation.view, Preparing) else None
        self._prepare_s: Times = {}
        self._after_s: dict[tuple[str, int, int], float] = {}
        """(service, amount, token) -> seconds to prepare on what this token holds."""
        self._holders = situation.running.holders(situation.now)[:ENDS_MAX]
        self._freed: list[Freed] = []
        """Of the first of these; made as far as somebody looks, anew when somebody starts."""

    def plan(self, waiting: Sequence[Entry], spare: int) -> Plan:
        """In order, each with the amount that is worth most to it, until one has to wait. At most
        `spare` units start anything."""
        situation = self._situation
        starts: list[tuple[Entry, int]] = []
        again_s = math.inf
        looked_at = sorted(waiting[:LOOK_MAX], key=self._order)
        for index, entry in enumerate(looked_at):
            assert entry.choices is not None
            price = self._price + self._behind * (len(waiting) - 1 - index)
            best = self._best(entry, price, spare)
            again_s = min(again_s, best.at_s if best.at_s > situation.now else math.inf)
            if best.at_s <= situation.now:
                starts.append((entry, best.units))
                self._left = self._left.less([best.units])
                self._freed.clear()
                spare -= self._left.occupied(best.units)
                # Whoever comes next for the same service finds that one taken.
                key = (entry.action.service, best.units)
                self._prepare_s[key] = self._restore_s(entry, best.units)
            elif self._left.occupied(entry.choices.minimum) > min(self._left.most, spare):
                break
        return Plan(starts, again_s)

    def _order(self, entry: Entry) -> tuple[float, float, int]:
        """As the policy ranks it, the time to prepare counted in; patience that has run out stays
        above all."""
        tier, length_s, arrival, _ = entry.rank
        if length_s != IMPATIENT:
            assert entry.choices is not None
            length_s += min(self._prepare(entry, units) for units in entry.choices.units)
        return tier, length_s, arrival

    def _best(self, entry: Entry, price: float, spare: int) -> Choice:
        """When it should start and with how much: now, or when another ends, if it ends sooner so,
        its unit-seconds counted in. Never, if nothing is known to come free for it."""
        now = self._situation.now
        best = self._cheapest(entry, price, self._left, spare, self._prepare)
        best = Choice(best.value_s, now if best.units else math.inf, best.units)
        least_s = self._cheapest(entry, price, None, spare, lambda entry, units: 0.0).value_s
        for index, (end_s, _, _) in enumerate(self._holders):
            if end_s - now + least_s >= best.value_s:
                break
            freed = self._when_ended(index)

            def prepare_s(entry: Entry, units: int, token: int = freed.token) -> float:
                return self._prepare_after(entry, units, token)

            found = self._cheapest(entry, price, freed.left, spare + freed.units, prepare_s)
            if end_s - now + found.value_s < best.value_s:
                # What is due this very moment is not free yet.
                later_s = max(end_s, math.nextafter(now, math.inf))
                best = Choice(end_s - now + found.value_s, later_s, found.units)
        return best

    def _when_ended(self, index: int) -> Freed:
        """When this holder and all that end before it have; asked for one after the other."""
        if index == len(self._freed):
            end_s, units, token = self._holders[index]
            left = self._freed[-1].left if self._freed else self._left
            before = self._freed[-1].units if self._freed else 0
            self._freed.append(
                Freed(end_s, token, left.joined(units), before + left.occupied(units))
            )
        return self._freed[index]

    def _cheapest(
        self,
        entry: Entry,
        price: float,
        left: Operator | None,
        spare: int,
        prepare_s: Callable[[Entry, int], float],
    ) -> Choice:
        """The least of preparing and running, unit-seconds counted in, among the amounts that fit
        (all of them, if nothing is said of what is left); infinite and 0 units if none does."""
        assert entry.choices is not None
        best = Choice(math.inf, self._situation.now, 0)
        for units, run_s in zip(entry.choices.units, entry.choices.durations_s, strict=True):
            held = self._left.occupied(units)
            if left is not None and (held > spare or units > left.most):
                continue
            value_s = (PREPARE_SHARE * prepare_s(entry, units) + run_s) * (1 + price * held)
            if value_s < best.value_s:
                best = Choice(value_s, self._situation.now, units)
        return best

    def _prepare(self, entry: Entry, units: int) -> float:
        """If it were granted now."""
        if self._ready is None:
            return 0.0
        key = (entry.action.service, units)
        if key not in self._prepare_s:
            self._prepare_s[key] = self._ready.prepare_s(*key, self._situation.now)
        return self._prepare_s[key]

    def _restore_s(self, entry: Entry, units: int) -> float:
        """Where nothing is ready."""
        return 0.0 if self._ready is None else self._ready.restore_s(entry.action.service, units)

    def _prepare_after(self, entry: Entry, units: int, token: int) -> float:
        """On what this token holds."""
        if self._ready is None:
            return 0.0
        key = (entry.action.service, units, token)
        if key not in self._after_s:
            self._after_s[key] = self._ready.prepare_after_s(*key)
        return self._after_s[key]
