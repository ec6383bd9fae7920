"""How the units of actions that may change while they run are shared out among them, and among those
that wait: as much speed as the units give, the short ones weighing more.

One more unit goes to whom it speeds up most, times the weight of that action: how many others it
holds up. Served so, shares are those of water filling (a price on units at which each takes what
pays), in the order of shortest remaining work; for speeds that saturate this is close to the best
share-out known (heSRPT, Berg, Vesilo, Harchol-Balter 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

from .choices import Choices

SHARED_MAX = 128
"""Actions among whom units are shared out in one pass, the shortest first: what is further back gets
nothing while so many are before it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One action that may get more, or fewer, units. `held` is 0 while it waits."""

    choices: Choices
    held: int
    left: float = 1.0
    """Share of its work that is left."""
    fixed: bool = False
    """It changed a moment ago: it keeps what it holds."""

    @property
    def work_s(self) -> float:
        """Unit-seconds that are left, at the least amount."""
        return self.left * self.choices.durations_s[0] * self.choices.units[0]


def share_out(budget: int, claims: Sequence[Claim], expected: float) -> list[int]:
    """Units of each claim, in its order; 0 for one that should go on waiting. Their sum is at most
    `budget`, unless what runs has more already and cannot give it up: its least amount stays.

    Claims stand in the order of their work, the least first. `expected` is how many more than those
    behind it each action holds up: those that are still to come.
    """
    chosen = [-1 if not claim.held else 0 for claim in claims]
    spare = budget
    wanted: list[tuple[float, int]] = []
    for index, claim in enumerate(claims):
        if claim.fixed:
            chosen[index] = claim.choices.at_most(claim.held) or 0
            spare -= claim.held
            continue
        if claim.held:
            spare -= claim.choices.units[0]
        weight = len(claims) - index + expected
        wanted.append((-weight * _gain(claim.choices, chosen[index]), index))
    heapify(wanted)
    while wanted and spare > 0:
        index = wanted[0][1]
        choices, step = claims[index].choices, chosen[index] + 1
        cost = 0 if step >= len(choices.units) else _cost(choices, step)
        if not cost or cost > spare:
            # What it wants next is not there; a smaller step of another may be.
            heappop(wanted)
            continue
        spare -= cost
        chosen[index] = step
        weight = len(claims) - index + expected
        heapreplace(wanted, (-weight * _gain(choices, step), index))
    return [
        claim.held if claim.fixed else 0 if index < 0 else claim.choices.units[index]
        for claim, index in zip(claims, chosen, strict=True)
    ]


def _cost(choices: Choices, step: int) -> int:
    """Units that this step takes beyond the one before."""
    return choices.units[step] - (choices.units[step - 1] if step else 0)


def _gain(choices: Choices, index: int) -> float:
    """Speed that each unit of the next step adds, in units of the speed of one; 0 at the end."""
    step = index + 1
    if step >= len(choices.units):
        return 0.0
    work_s = choices.durations_s[0] * choices.units[0]
    slower = work_s / choices.durations_s[index] if index >= 0 else 0.0
    return (work_s / choices.durations_s[step] - slower) / _cost(choices, step)
