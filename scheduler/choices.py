"""How many units of its key resource an action may get, and how long it would run with each.

The feasible set of a demand, narrowed to what makes sense: what its node has, what is not slower
than fewer units, and what ends before the action's timeout. Nothing here decides between them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from operator import ge

from .model import DURATION_MIN_S, Action, Amounts, Profile

CHOICES_MAX = 128
"""Amounts looked at per action; of a wider range as many, evenly spread, its ends among them. A
pass costs as much as there are choices, and neighbours in a wide range hardly differ."""

_CURVES_MAX = 4_096
"""Shapes of elasticity kept: actions of one task share a few."""


GAIN_SLACK = 1e-12
"""Share of the duration at the minimum below which what a unit saves, or saves more than the one
before it, is rounding."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Feasible amounts of the key resource, ascending, and the predicted run time (s) at each. The
    first is the minimum.

    Raises ValueError if there are none or too many, if they do not ascend from at least 1, or for a
    duration that is negative or not finite.
    """

    units: tuple[int, ...]
    durations_s: tuple[float, ...]
    steady: bool | None = field(default=None, compare=False, repr=False)
    """Whether every next unit is a choice and none saves more than the one before it (as under
    Amdahl's law). Found out if it is not given."""

    def __post_init__(self) -> None:
        if not 0 < len(self.units) <= CHOICES_MAX:
            raise ValueError(f"an action has 1 to {CHOICES_MAX} choices, not {len(self.units)}")
        if len(self.units) != len(self.durations_s):
            raise ValueError(f"{len(self.units)} amounts, but {len(self.durations_s)} durations")
        if self.units[0] < 1 or any(map(ge, self.units, self.units[1:])):
            raise ValueError(f"amounts ascend from at least 1, not {self.units}")
        if min(self.durations_s) < 0 or not math.isfinite(sum(self.durations_s)):
            raise ValueError(f"durations are finite and not negative, not {self.durations_s}")
        if self.steady is None:
            object.__setattr__(self, "steady", _is_steady(self.units, self.durations_s))

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> Choices:
        """From (units, seconds), ascending in units."""
        units, durations_s = zip(*pairs, strict=True)
        return cls(tuple(units), tuple(durations_s))

    @property
    def minimum(self) -> int:
        return self.units[0]

    @property
    def elastic(self) -> bool:
        return len(self.units) > 1

    @property
    def work_s(self) -> float:
        """Unit-seconds of the whole at the least amount."""
        return self.units[0] * self.durations_s[0]

    def at_most(self, units: int) -> int | None:
        """Index of the largest amount that is not above `units`; None if even the least is."""
        index = bisect_right(self.units, units) - 1
        return index if index >= 0 else None

    def duration_s(self, units: int) -> float:
        """At an amount that need not be among the choices: as with the next smaller one."""
        return self.durations_s[max(0, bisect_right(self.units, units) - 1)]

    def gain_s(self, index: int) -> float:
        """Seconds saved by the next choice over this one; 0 beyond the last, and for rounding."""
        if index + 1 >= len(self.units):
            return 0.0
        gain_s = self.durations_s[index] - self.durations_s[index + 1]
        return gain_s if gain_s > GAIN_SLACK * self.durations_s[0] else 0.0


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
    units, factors, steady = _curve(amounts, table, profile.serial)
    fitting = max(1, bisect_right(units, largest))
    duration_s = max(profile.duration_s or 0.0, DURATION_MIN_S)
    durations_s = [duration_s * factor for factor in factors[:fitting]]
    first = _first_in_time(durations_s, action.timeout_s)
    # A stretch of a steady curve is steady; one of another may be, which is not worth a look.
    return Choices(units[first:fitting], tuple(durations_s[first:]), steady)


def _is_steady(units: Sequence[int], durations_s: Sequence[float]) -> bool:
    if units[-1] - units[0] != len(units) - 1:
        return False
    slack_s = GAIN_SLACK * durations_s[0]
    gains_s = [before_s - after_s for before_s, after_s in pairwise(durations_s)]
    return all(later_s <= sooner_s + slack_s for sooner_s, later_s in pairwise(gains_s))


def _first_in_time(durations_s: Sequence[float], timeout_s: float | None) -> int:
    """Index of the smallest amount that ends in time; of the largest if none does."""
    if timeout_s is None:
        return 0
    for index, duration_s in enumerate(durations_s):
        if duration_s <= timeout_s:
            return index
    return len(durations_s) - 1


@lru_cache(_CURVES_MAX)
def _curve(
    amounts: Amounts, table: tuple[tuple[int, float], ...], serial: float | None
) -> tuple[tuple[int, ...], tuple[float, ...], bool]:
    """Amounts and durations relative to one unit, and whether they are steady; amounts no faster
    than fewer are left out."""
    profile = Profile(1.0, dict(table), serial)
    units: list[int] = []
    factors: list[float] = []
    for amount in _spread(amounts):
        factor = profile.run_s(amount) or 0.0
        if not factors or factor < factors[-1]:
            units.append(amount)
            factors.append(factor)
    return tuple(units), tuple(factors), _is_steady(units, factors)


def _spread(amounts: Amounts) -> Sequence[int]:
    feasible = amounts.values or range(amounts.minimum, amounts.maximum + 1)
    if len(feasible) <= CHOICES_MAX:
        return feasible
    last = len(feasible) - 1
    return [feasible[index * last // (CHOICES_MAX - 1)] for index in range(CHOICES_MAX)]
