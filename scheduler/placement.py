"""Which node a trajectory lives on: the most free memory first, in the order of opening.

Trajectories that no node could ever hold stand aside until another node joins, so that they block
nobody.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter

from .decisions import Place
from .model import ResourceId
from .pool import Pool
from .queue import Ages
from .ranking import Ranking
from .records import FIRST, Phase, Seat

PASSED_MAX = 4_096
"""Younger trajectories that may be placed before one that waits, until it goes before all others."""

_BY_KEY = attrgetter("key")


class Placement:
    """The trajectories that have no node yet."""

    def __init__(self, pool: Pool, ranking: Ranking) -> None:
        self._pool = pool
        self._ranking = ranking
        self.ages: Ages[Seat] = Ages()
        self.waiting: list[Seat] = []
        """Sorted by key: the first is placed first and holds up the rest."""
        self.unplaceable: dict[str, Seat] = {}
        self._touched = False

    def add(self, seat: Seat) -> None:
        wanted = seat.trajectory
        if self._pool.live() and not self._pool.could_hold(wanted.reserve, wanted.node):
            self.unplaceable[seat.trajectory.id] = seat
            return
        insort(self.waiting, seat, key=_BY_KEY)
        self.ages.add(seat)
        self._touched = True

    def remove(self, seat: Seat) -> None:
        """Silent if it does not wait here."""
        self.unplaceable.pop(seat.trajectory.id, None)
        index = self.ahead_of(seat)
        if index < len(self.waiting) and self.waiting[index] is seat:
            del self.waiting[index]
            self.ages.remove(seat)
            self._touched = True

    def touch(self) -> None:
        """Something that trajectories reserve may have become free."""
        self._touched = True

    def sort_out(self) -> None:
        """The nodes changed: look again at who could ever be placed."""
        seats = [*self.waiting, *self.unplaceable.values()]
        self.waiting, self.unplaceable = [], {}
        for seat in seats:
            self.add(seat)
        for seat in self.unplaceable.values():
            self.ages.remove(seat)

    def rekey(self, seat: Seat, rank: float) -> None:
        """Another place in the order. What is FIRST stays so."""
        if seat.key[0] in (FIRST, rank):
            return
        index = self.ahead_of(seat)
        waits = index < len(self.waiting) and self.waiting[index] is seat
        if waits:
            del self.waiting[index]
        seat.key = (rank, *seat.key[1:])
        if waits:
            insort(self.waiting, seat, key=_BY_KEY)
            self._touched = True

    def ahead_of(self, seat: Seat) -> int:
        return bisect_left(self.waiting, seat.key, key=_BY_KEY)

    def run(self, now: float) -> list[tuple[Seat, Place]]:
        """Place in order until the first that fits nowhere now. One that can live on one node alone
        holds up the others there only. Reservations are taken on return."""
        placed: list[tuple[Seat, Place]] = []
        if not self._touched:
            return placed
        if (overdue := self.ages.overdue(PASSED_MAX)) is not None:
            self.rekey(overdue, FIRST)
        self._touched = False
        free_for_all, passed = set(self._pool.live()), []
        for index, seat in enumerate(self.waiting):
            only = seat.trajectory.node
            nodes = free_for_all & {only} if only else free_for_all
            node = self._pool.roomiest(seat.trajectory.reserve, now, nodes)
            if node is not None:
                placed.append((seat, self._place(seat, node, now)))
                continue
            passed.append(seat)
            free_for_all.discard(only)
            if not only or not free_for_all:
                passed += self.waiting[index + 1 :]
                break
        self.waiting = passed
        return placed

    def place_at(self, seat: Seat, node: str, now: float) -> Place | None:
        """On this very node, before its turn. None, and nothing changed, if it does not fit."""
        reserve = seat.trajectory.reserve
        if not self._pool.is_up(node) or any(
            self._pool.free(ResourceId(kind, node), now) < n for kind, n in reserve.items()
        ):
            return None
        self.remove(seat)
        return self._place(seat, node, now)

    def _place(self, seat: Seat, node: str, now: float) -> Place:
        seat.node, seat.token, seat.phase = node, self._pool.next_token(), Phase.STARTING
        self._pool.take(seat.token, reservation(seat), now)
        self.ages.remove(seat)
        self._ranking.placed(seat, now)
        return Place(seat.trajectory.id, node, seat.token)


def reservation(seat: Seat) -> dict[ResourceId, int]:
    """What a placed trajectory holds on its node."""
    if seat.node is None:
        return {}
    return {ResourceId(k, seat.node): n for k, n in seat.trajectory.reserve.items() if n > 0}
