"""How many units of its key resource an action may get, and how long it would run with each.

The feasible set of a demand, narrowed to what makes sense: what its node has, what is not slower
than fewer units, and what ends before the action's timeout. Nothing here decides between them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .model import DURATION_MIN_S, Action, Amounts, Profile

CHOICES_MAX = 128
"""Amounts looked at per action; of a wider range as many, evenly spread, its ends among them. A
pass costs as much as there are choices, and neighbours in a wide range hardly differ."""

_CURVES_MAX = 4_096
"""Shapes of elasticity kept: actions of one task share a few."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Amounts of the key resource, ascending, and the predicted run times (s), descending."""

    units: tuple[int, ...]
    runs_s: tuple[float, ...]

    def at_most(self, units: int) -> int | None:
        """Index of the largest amount that is not above `units`; None if even the least is."""
        index = bisect_right(self.units, units) - 1
        return index if index >= 0 else None

    def run_s(self, units: int) -> float:
        """Of an amount that need not be among the choices: as with the next smaller one."""
        return self.runs_s[self.at_most(units) or 0]


def choices_of(action: Action, profile: Profile, largest: int) -> Choices | None:
    """None if the amount cannot be chosen or nothing is known of how it changes the duration.

    `largest` is the most that one grant could ever get. An amount whose predicted duration exceeds
    the timeout is infeasible while a larger one exists, so that luck in the queue does not decide
    whether the action ends in time.
    """
    key = action.demand.key
    if key is None or not profile.scales:
        return None
    amounts = action.demand.of(key)
    if not amounts.elastic:
        return None
    table = tuple(sorted(profile.elasticity.items()))
    units, factors = _curve(amounts, table, profile.serial)
    fitting = max(1, bisect_right(units, largest))
    duration_s = max(profile.duration_s or 0.0, DURATION_MIN_S)
    runs_s = [duration_s * factor for factor in factors[:fitting]]
    first = _first_in_time(runs_s, action.timeout_s)
    return Choices(units[first:fitting], tuple(runs_s[first:]))


def _first_in_time(runs_s: Sequence[float], timeout_s: float | None) -> int:
    """Index of the smallest amount that ends in time; of the largest if none does."""
    if timeout_s is None:
        return 0
    for index, run_s in enumerate(runs_s):
        if run_s <= timeout_s:
            return index
    return len(runs_s) - 1


@lru_cache(_CURVES_MAX)
def _curve(
    amounts: Amounts, table: tuple[tuple[int, float], ...], serial: float | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Amounts and durations relative to one unit; amounts no faster than fewer are left out."""
    profile = Profile(1.0, dict(table), serial)
    units: list[int] = []
    factors: list[float] = []
    for amount in _spread(amounts):
        factor = profile.run_s(amount) or 0.0
        if not factors or factor < factors[-1]:
            units.append(amount)
            factors.append(factor)
    return tuple(units), tuple(factors)


def _spread(amounts: Amounts) -> Sequence[int]:
    feasible = amounts.values or range(amounts.minimum, amounts.maximum + 1)
    if len(feasible) <= CHOICES_MAX:
        return feasible
    last = len(feasible) - 1
    return [feasible[index * last // (CHOICES_MAX - 1)] for index in range(CHOICES_MAX)]
