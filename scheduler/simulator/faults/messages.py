"""Messages under way between the server and its nodes: late, and to the server twice.

Those of one lane (about one action, or one trajectory) keep their order; repeated ones come at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

LATE_S = 8.0
"""A late message is late by up to this."""

SOON_S = 0.2
"""A message that is not late comes within this."""


class Carrier(Protocol):
    """What messages need of their host."""

    now: float

    def after(self, delay_s: float, what: Callable[[], None]) -> None: ...

    def chance(self, fault: str) -> bool: ...

    def uniform(self, low: float, high: float) -> float: ...


class Messages:
    """Of one run."""

    def __init__(self, host: Carrier) -> None:
        self._host = host
        self._lanes: dict[str, float] = {}
        """When the last message of a lane arrives: later ones come after."""

    def to_server(self, lane: str, arrive: Callable[[], None]) -> None:
        host = self._host
        delay_s = host.uniform(0, SOON_S)
        if host.chance("late"):
            delay_s = host.uniform(0, LATE_S)
        in_s = self._in_order(lane, delay_s)
        host.after(in_s, arrive)
        if host.chance("duplicated"):
            host.after(in_s + host.uniform(0, LATE_S), arrive)

    def to_node(self, lane: str, arrive: Callable[[], None]) -> None:
        host = self._host
        delay_s = host.uniform(0, LATE_S if host.chance("late") else SOON_S)
        host.after(self._in_order(f"to {lane}", delay_s), arrive)

    def _in_order(self, lane: str, delay_s: float) -> float:
        """Seconds from now."""
        now = self._host.now
        at_s = self._lanes[lane] = max(now + delay_s, self._lanes.get(lane, 0.0))
        return at_s - now
