"""The table of orders: who is served first, by name.

An order is data: its name and what makes the ranking of one scheduler. How many units an action
gets is the policy's to say, not the order's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .fairshare import FairShare
from .groups import GroupAware
from .ranking import Ranking, Totals, Weights
from .records import Entry, Seat

DEFAULT = "first-come"
"""What a server and the simulator use if nothing is said."""

AGEING_PRIORITY_S = 60.0
"""One step of priority is worth a minute of waiting: more than most actions run, less than a step."""

AGEING_GROUP_S = 10.0
"""One open trajectory less in a group is worth so much waiting: a group of 16 can be overtaken for
less than three minutes."""

AGEING_S_MAX = 86_400.0
"""A day. Beyond, ageing is none."""


Maker: TypeAlias = Callable[[float, Totals, Weights], Ranking]


@dataclass(frozen=True, slots=True)
class Order:
    """`name` as it was written, so that results can be told apart."""

    name: str
    ageing_s: float
    make: Maker

    def ranking(self, totals: Totals, weights: Weights) -> Ranking:
        """A fresh one, for one scheduler."""
        return self.make(self.ageing_s, totals, weights)


def parse_order(text: str) -> Order:
    """`first-come`, `priority:ageing=30`, ... Raises ValueError that says what would be right."""
    name, colon, argument = text.partition(":")
    if name not in _ORDERS:
        raise ValueError(f"unknown order {text!r}; known are {', '.join(USAGES)}")
    usual_s, make = _ORDERS[name]
    if colon:
        return Order(text, _ageing(text, argument, usual_s), make)
    return Order(text, usual_s or 0.0, make)


def check_weights(weights: Weights) -> None:
    """Raises ValueError that names the weight and what would be right."""
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(f"{name}: a weight is a positive number, not {weight!r}")


class Priority(Ranking):
    """Priority with ageing: one step counts as `ageing_s` of waiting, so that ranks never change
    while somebody waits. A tier is as wide as one step."""

    def __init__(self, ageing_s: float) -> None:
        self._ageing_s = ageing_s

    def of_action(self, entry: Entry, priority: int) -> float:
        return entry.submitted - priority * self._ageing_s

    def of_trajectory(self, seat: Seat) -> float:
        return seat.opened - seat.trajectory.priority * self._ageing_s

    def tier(self, rank: float) -> float:
        return rank // self._ageing_s


def _ageing(text: str, argument: str, usual_s: float | None) -> float:
    if usual_s is None:
        raise ValueError(f"order {text!r}: {text.partition(':')[0]} takes no argument")
    name, _, value = argument.partition("=")
    try:
        ageing_s = float(value) if name == "ageing" else math.nan
    except ValueError:
        ageing_s = math.nan
    if not 0 < ageing_s <= AGEING_S_MAX:
        right = f"{text.partition(':')[0]}:ageing={usual_s:g}"
        raise ValueError(
            f"order {text!r}: seconds above 0 and at most {AGEING_S_MAX:g} are meant, as {right}"
        )
    return ageing_s


_ORDERS: Mapping[str, tuple[float | None, Maker]] = {
    "first-come": (None, lambda ageing_s, totals, weights: Ranking()),
    "priority": (AGEING_PRIORITY_S, lambda ageing_s, totals, weights: Priority(ageing_s)),
    "fair-share": (None, lambda ageing_s, totals, weights: FairShare(totals, weights)),
    "group": (AGEING_GROUP_S, lambda ageing_s, totals, weights: GroupAware(ageing_s)),
}
"""Name -> its usual ageing (s), None if it has none, and what makes its ranking."""

USAGES = ("first-come", "priority[:ageing=60]", "fair-share", "group[:ageing=10]")
