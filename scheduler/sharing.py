"""How the units of actions that may change while they run are shared out among them, and among those
that wait: as much speed as the units give, the short ones weighing more.

One more unit goes to whom it speeds up most, times the weight of that action: how many others it
holds up; who could not take its next step, since it needs more units than were left, gets those of
the last steps of others where that is worth more. Served so, shares are those of water filling (a
price on units at which each takes what pays), in the order of shortest remaining work; for speeds
that saturate this is close to the best share-out known (heSRPT, Berg, Vesilo, Harchol-Balter 2020).
"""

from __future__ import annotations

from collections import deque
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
        return self.left * self.choices.work_s


def share_out(budget: int, claims: Sequence[Claim], expected: float) -> list[int]:
    """Units of each claim, in its order; 0 for one that should go on waiting. Their sum is at most
    `budget`, unless what runs has more already and cannot give it up: its least amount stays.

    Step by step to whom each unit of its next step speeds up most, weighed; then whoever found too
    little left for its next step gets it from the last steps that others got, if that is worth more.

    Claims stand in the order of their work, the least first. `expected` is how many more than those
    behind it each action holds up: those that are still to come.
    """
    sharing = _Sharing(budget, claims, expected)
    missed = deque(sharing.hand_out())
    tried: set[int] = set()
    while missed:
        index = missed.popleft()
        if index in tried:
            continue
        tried.add(index)
        if sharing.take_back_for(index):
            missed += sharing.hand_out()
    return [
        claim.held if claim.fixed else 0 if index < 0 else claim.choices.units[index]
        for claim, index in zip(claims, sharing.chosen, strict=True)
    ]


class _Sharing:
    """What each claim has so far, and in which steps it was handed out."""

    __slots__ = ("_claims", "_expected", "_handed", "_spare", "chosen")

    def __init__(self, budget: int, claims: Sequence[Claim], expected: float) -> None:
        self.chosen = [-1 if not claim.held else 0 for claim in claims]
        """Index of each one's choice; -1 for none."""
        self._claims = claims
        self._expected = expected
        self._handed: list[int] = []
        """Who got one step more, the last at the end."""
        self._spare = budget
        for index, claim in enumerate(claims):
            if claim.fixed:
                self.chosen[index] = claim.choices.at_most(claim.held) or 0
                self._spare -= claim.held
            elif claim.held:
                self._spare -= claim.choices.units[0]

    def hand_out(self) -> list[int]:
        """As many steps as there are units for. Those whose next step takes more than were left
        when it was their turn."""
        wanted = [(-self._worth(i), i) for i, claim in enumerate(self._claims) if not claim.fixed]
        heapify(wanted)
        missed: list[int] = []
        while wanted and self._spare > 0:
            index = wanted[0][1]
            choices, step = self._claims[index].choices, self.chosen[index] + 1
            cost = 0 if step >= len(choices.units) else _cost(choices, step)
            if not cost or cost > self._spare:
                # What it wants next is not there; a smaller step of another may be.
                heappop(wanted)
                if cost:
                    missed.append(index)
                continue
            self._spare -= cost
            self.chosen[index] = step
            self._handed.append(index)
            heapreplace(wanted, (-self._worth(index), index))
        return missed

    def take_back_for(self, index: int) -> bool:
        """Give it its next step with units of the last steps of others, if it is worth more than
        these were. Whether it was."""
        claims, chosen, handed = self._claims, self.chosen, self._handed
        choices, step = claims[index].choices, chosen[index] + 1
        if step >= len(choices.units):
            return False
        cost = _cost(choices, step)
        gain, spare = self._worth(index) * cost, self._spare
        position, back = len(handed), list[int]()
        while spare < cost and position:
            position -= 1
            other = handed[position]
            if other == index:
                continue
            freed = _cost(claims[other].choices, chosen[other])
            chosen[other] -= 1
            gain -= self._worth(other) * freed
            spare += freed
            back.append(position)
        if spare < cost or gain <= 0:
            for place in back:
                chosen[handed[place]] += 1
            return False
        for place in back:
            del handed[place]
        handed.append(index)
        chosen[index] = step
        self._spare = spare - cost
        return True

    def _worth(self, index: int) -> float:
        """Of each unit of its next step: the speed that it adds, weighed."""
        weight = len(self._claims) - index + self._expected
        return weight * _gain(self._claims[index].choices, self.chosen[index])


def _cost(choices: Choices, step: int) -> int:
    """Units that this step takes beyond the one before."""
    return choices.units[step] - (choices.units[step - 1] if step else 0)


def _gain(choices: Choices, index: int) -> float:
    """Speed that each unit of the next step adds, in units of the speed of one; 0 at the end."""
    step = index + 1
    if step >= len(choices.units):
        return 0.0
    work_s = choices.work_s
    slower = work_s / choices.durations_s[index] if index >= 0 else 0.0
    return (work_s / choices.durations_s[step] - slower) / _cost(choices, step)
