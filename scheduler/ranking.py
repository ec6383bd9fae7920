"""What an order of service is asked, and what it is told: the contract of the rankings.

A ranking gives each action and each trajectory its rank when it arrives: the lesser is served
first, and equals as they came. `Ranking` itself is the order first-come; others learn from what
they are told. Who may run, and with how much, is not a ranking's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from .records import Entry, Seat

Totals: TypeAlias = Callable[[str], int]
"""Kind of unit -> units of it that all nodes have together, at least 1."""

Weights: TypeAlias = Mapping[str, float]
"""Name of a task or tenant -> its weight; 1 if it is not named."""


class Ranking:
    """First come, first served; a higher priority before any lower."""

    def of_action(self, entry: Entry, priority: int) -> float:
        """A new action, submitted at `entry.submitted`. Priority: its own plus its trajectory's."""
        return -float(priority)

    def of_trajectory(self, seat: Seat) -> float:
        """A new trajectory that waits for a node, opened at `seat.opened`."""
        return -float(seat.trajectory.priority)

    def tier(self, rank: float) -> float:
        """Coarser than the rank: within one tier a policy may serve the shortest first."""
        return rank

    # What becomes of them

    def took(self, entry: Entry, now: float) -> None:
        """It was granted its amounts, or a node says that it holds them."""

    def changed(self, entry: Entry, now: float) -> None:
        """Its amounts are others from now on."""

    def settled(self, entry: Entry, now: float) -> None:
        """It has ended and holds nothing any more, or never did."""

    def placed(self, seat: Seat, now: float) -> None:
        """The trajectory holds what it reserves."""

    def closed(self, seat: Seat, now: float) -> None:
        """It has no more actions to come; it may hold its reservation still."""

    def released(self, seat: Seat, now: float) -> None:
        """It holds nothing any more, or never did."""

    def moved(self) -> Iterable[tuple[Entry | Seat, float]]:
        """Those that wait and have another rank since this was last asked."""
        return ()
