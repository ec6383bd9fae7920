"""What one action may be given of its key resource, and how long it would then run.

Made once per action and read in every pass: whatever can be said of the choices beforehand is found
out here. Nothing here knows what is free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice, pairwise

from .model import DURATION_MIN_S, Amounts, Profile

CHOICES_MAX = 1024
"""Amounts that are looked at, the smallest first: four nodes' worth of cores. A pass costs time for
each of them, and what scales still further gains next to nothing there."""

GAIN_SLACK = 1e-12
"""Share of the duration at the minimum by which one gain may exceed the one before it and yet count
as rounding."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Feasible amounts, ascending, and the run time in seconds at each. The first is the minimum.

    Raises ValueError if there are none or too many, if they do not ascend from at least 1, or for a
    duration that is negative or not finite.
    """

    units: tuple[int, ...]
    durations_s: tuple[float, ...]
    gains_s: tuple[float, ...] | None = field(init=False, compare=False, repr=False)
    """Seconds saved by each unit above the minimum, if every next unit is feasible and none saves
    more than the one before it (as under Amdahl's law); else None."""

    def __post_init__(self) -> None:
        if not 0 < len(self.units) <= CHOICES_MAX:
            raise ValueError(f"an action has 1 to {CHOICES_MAX} choices, not {len(self.units)}")
        if len(self.units) != len(self.durations_s):
            raise ValueError(f"{len(self.units)} amounts, but {len(self.durations_s)} durations")
        if self.units[0] < 1 or any(b <= a for a, b in pairwise(self.units)):
            raise ValueError(f"amounts ascend from at least 1, not {self.units}")
        for duration_s in self.durations_s:
            if not 0 <= duration_s < math.inf:
                raise ValueError(f"a duration is finite and not negative, not {duration_s}")
        object.__setattr__(self, "gains_s", self._gains())

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> Choices:
        """From (units, seconds), ascending in units."""
        units, durations_s = zip(*pairs, strict=True)
        return cls(tuple(units), tuple(durations_s))

    @classmethod
    def known(cls, amounts: Amounts, profile: Profile, otherwise_s: float) -> Choices:
        """All amounts if it is known how the action scales; else the minimum alone, for as long as
        the profile says, or for `otherwise_s` (an average of the past) if it says nothing."""
        if not profile.scales:
            known_s = profile.run_s(amounts.minimum)
            seconds = otherwise_s if known_s is None else known_s
            return cls((amounts.minimum,), (max(seconds, DURATION_MIN_S),))
        units = tuple(islice(amounts, CHOICES_MAX))
        return cls(units, tuple(profile.run_s(amount) or DURATION_MIN_S for amount in units))

    @property
    def minimum(self) -> int:
        return self.units[0]

    @property
    def elastic(self) -> bool:
        return len(self.units) > 1

    def duration_s(self, units: int) -> float:
        """At one of the feasible amounts. Raises ValueError at any other."""
        return self.durations_s[self.units.index(units)]

    def _gains(self) -> tuple[float, ...] | None:
        if self.units[-1] - self.units[0] != len(self.units) - 1:
            return None
        slack_s = GAIN_SLACK * self.durations_s[0]
        gains: list[float] = []
        for before_s, after_s in pairwise(self.durations_s):
            gain_s = before_s - after_s
            if gains and gain_s > gains[-1]:
                if gain_s > gains[-1] + slack_s:
                    return None
                gain_s = gains[-1]
            gains.append(gain_s)
        return tuple(gains)
