"""The time that one scoring may take: seconds of running, never of waiting for cores."""

from __future__ import annotations

LEAST_S = 0.001
"""What an action is given that has nothing left: above 0, as a timeout must be."""


class Clock:
    """Counts down. Tests that run at the same time spend at the same time."""

    def __init__(self, total_s: float) -> None:
        self.total_s = total_s
        self._spent_s = 0.0

    def spend(self, seconds: float) -> None:
        self._spent_s += seconds

    @property
    def left_s(self) -> float:
        return max(LEAST_S, self.total_s - self._spent_s)

    @property
    def is_up(self) -> bool:
        return self._spent_s >= self.total_s

    @property
    def message(self) -> str:
        return f"the {self.total_s:g} s for all tests are used up"
