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
from collections.abc import Sequence
from typing import TypeAlias

from .operators import Operator
from .queue import IMPATIENT
from .records import Entry
from .resource import Preparing
from .situation import Plan, Situation

LOOK_MAX = 512
"""Waiting actions that are looked at in one pass, the first in order: who starts is among them, and
what each of them would have to prepare is asked anew every time."""

Times: TypeAlias = dict[tuple[str, int], float]
"""(service, amount) -> seconds to prepare."""


class Placing:
    """One pass over the waiting actions. `price` is that of a unit-second in seconds before those
    who wait behind are counted, `behind` what each of these adds to it."""

    def __init__(self, situation: Situation, price: float, behind: float) -> None:
        self._situation = situation
        self._price = price
        self._behind = behind
        self._left: Operator = situation.operator
        self._prepare_s: Times = {}

    def plan(self, waiting: Sequence[Entry], spare: int) -> Plan:
        """In order, each with the amount that is worth most to it, until one has to wait. At most
        `spare` units start anything."""
        situation = self._situation
        starts: list[tuple[Entry, int]] = []
        looked_at = sorted(waiting[:LOOK_MAX], key=self._order)
        for index, entry in enumerate(looked_at):
            assert entry.choices is not None
            price = self._price + self._behind * (len(waiting) - 1 - index)
            at_s, units = self._best(entry, price, spare)
            if at_s > situation.now:
                return Plan(starts, at_s)
            starts.append((entry, units))
            self._left = self._left.less([units])
            spare -= self._left.occupied(units)
            # Whoever comes next for the same service finds that one taken.
            self._prepare_s[entry.action.service, units] = self._restore_s(entry, units)
        return Plan(starts)

    def _order(self, entry: Entry) -> tuple[float, float, int]:
        """As the policy ranks it, the time to prepare counted in; patience that has run out stays
        above all."""
        tier, length_s, arrival, _ = entry.rank
        if length_s != IMPATIENT:
            assert entry.choices is not None
            length_s += min(self._prepare(entry, units) for units in entry.choices.units)
        return tier, length_s, arrival

    def _best(self, entry: Entry, price: float, spare: int) -> tuple[float, int]:
        """When it should start and with how much: now, or when others end, if it ends sooner so,
        its unit-seconds counted in. Never, if nothing is known to come free for it."""
        now, left = self._situation.now, self._left
        best_s, units = self._cheapest(entry, price, left, spare, prepared=True)
        least_s, _ = self._cheapest(entry, price, None, 0, prepared=True)
        at_s = now if best_s < math.inf else math.inf
        if best_s == least_s:
            return at_s, units
        for end_s, freed in self._situation.running.ends(now, choosing=True):
            if end_s - now + least_s >= best_s:
                break
            left, spare = left.joined(freed), spare + left.occupied(freed)
            value_s, wanted = self._cheapest(entry, price, left, spare, prepared=False)
            if end_s - now + value_s < best_s:
                best_s, at_s, units = end_s - now + value_s, end_s, wanted
        return at_s, units

    def _cheapest(
        self, entry: Entry, price: float, left: Operator | None, spare: int, *, prepared: bool
    ) -> tuple[float, int]:
        """The least of preparing and running, unit-seconds counted in, among the amounts that fit
        (all of them, if nothing is said of what is left), and that amount; infinite if none does."""
        assert entry.choices is not None
        best_s, best = math.inf, 0
        operator = self._left
        for units, run_s in zip(entry.choices.units, entry.choices.durations_s, strict=True):
            held = operator.occupied(units)
            if left is not None and (held > spare or units > left.most):
                continue
            prepare_s = self._prepare(entry, units) if prepared else self._restore_s(entry, units)
            cost_s = (prepare_s + run_s) * (1 + price * held)
            if cost_s < best_s:
                best_s, best = cost_s, units
        return best_s, best

    def _prepare(self, entry: Entry, units: int) -> float:
        """If it were granted now."""
        key = (entry.action.service, units)
        if key not in self._prepare_s:
            view = self._situation.view
            known = isinstance(view, Preparing)
            self._prepare_s[key] = view.prepare_s(*key, self._situation.now) if known else 0.0
        return self._prepare_s[key]

    def _restore_s(self, entry: Entry, units: int) -> float:
        """Where nothing is ready."""
        view = self._situation.view
        return view.restore_s(entry.action.service, units) if isinstance(view, Preparing) else 0.0
