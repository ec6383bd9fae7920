"""What a resource's queue has learned of its load: averages over the recent past.

Only what can be counted without knowing a duration in advance. Averages decay with time, so that
they follow a run from one phase to the next.
"""

from __future__ import annotations

import math

from .records import Entry

RIGID_WINDOW_S = 24.0
"""Over how long the number of units with actions of a settled amount is averaged: some tens of
their durations."""

CHOOSING_WINDOW_S = 60.0
"""Over how long arrivals of actions whose amount is chosen are averaged: they are fewer, and longer."""

CHOOSING_AGE_MIN_S = 5.0
"""A rate is taken over at least so long a time: the first arrival alone is no rate."""


class Load:
    """Of one resource. Times on the host's clock; they must not go back."""

    __slots__ = ("_age_s", "_now", "_rigid", "_rigid_mean", "_weight", "_work_s")

    def __init__(self, now: float) -> None:
        self._now = now
        self._rigid = 0
        self._rigid_mean = self._weight = 0.0
        self._work_s = self._age_s = 0.0

    @property
    def rigid(self) -> int:
        """Units with actions of a settled amount, waiting or granted."""
        return self._rigid

    def rigid_mean(self, now: float) -> float:
        """The same, averaged over the recent past."""
        self._advance(now)
        return self._rigid_mean / self._weight if self._weight else float(self._rigid)

    def choosing_work(self, now: float) -> float:
        """Work of actions whose amount is chosen, by their durations with the least amount: how
        many seconds of it arrive per second."""
        self._advance(now)
        return self._work_s / max(self._age_s, CHOOSING_AGE_MIN_S)

    def enter(self, entry: Entry, units: int, now: float) -> None:
        """The action joins the queue, or is granted at once. Only once until it leaves."""
        if entry.counted:
            return
        self._advance(now)
        entry.counted = units
        if entry.choices is None:
            self._rigid += units
        else:
            self._work_s += entry.choices.units[0] * entry.choices.durations_s[0]

    def leave(self, entry: Entry, now: float) -> None:
        """It holds nothing any more, or waits no more."""
        if not entry.counted:
            return
        self._advance(now)
        if entry.choices is None:
            self._rigid -= entry.counted
        entry.counted = 0

    def _advance(self, now: float) -> None:
        passed_s = now - self._now
        if passed_s <= 0:
            return
        self._now = now
        kept = math.exp(-passed_s / RIGID_WINDOW_S)
        self._rigid_mean = self._rigid_mean * kept + self._rigid * (1 - kept)
        self._weight = self._weight * kept + (1 - kept)
        kept = math.exp(-passed_s / CHOOSING_WINDOW_S)
        self._work_s *= kept
        self._age_s = self._age_s * kept + CHOOSING_WINDOW_S * (1 - kept)
