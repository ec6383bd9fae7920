"""How long an action ran with which amount of its key resource: what its duration teaches.

Counts what its lease really had, not what was booked for it on the way.
"""

from __future__ import annotations

from collections.abc import Mapping


class Stretches:
    """Of one action, from its start on. Times on the host's clock; they must not go back."""

    __slots__ = ("_before_s", "_since_s", "units")

    def __init__(self, units: int, now: float) -> None:
        self.units = units
        """What it has now."""
        self._since_s = now
        self._before_s: dict[int, float] = {}

    @property
    def constant(self) -> bool:
        """Whether it always had what it has now."""
        return not self._before_s

    def change(self, units: int, now: float) -> None:
        """From now on its lease has so many. The same as before is no change."""
        if units == self.units:
            return
        self._before_s = dict(self.until(now))
        self.units, self._since_s = units, now

    def until(self, now: float) -> Mapping[int, float]:
        """Units -> seconds that it had them."""
        seconds = dict(self._before_s)
        seconds[self.units] = seconds.get(self.units, 0.0) + now - self._since_s
        return seconds
