"""Units for malleable actions: those that run grow and shrink, those that wait start.

What each should have is `sharing`'s answer; here it is compared with what each has. Changes are
few: none soon after the last one, none that is small, and growth only from units that are free now,
since what others give up is free when their node confirms it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .records import Entry
from .sharing import SHARED_MAX, Claim, share_out
from .situation import Plan, Situation

__all__ = ["SHARED_MAX", "move"]

HOLD_S = 0.1
"""An action keeps its units at least so long: a hundred times what a change costs. Holding them
longer, half a second, loses most of what changing gains."""

CHANGE_MIN = 0.1
"""Share of what it holds by which a change has to be worth it, unless others wait."""


def move(
    situation: Situation,
    waiting: Sequence[Entry],
    *,
    free: int,
    budget: int,
    expected: float,
    pressed: bool,
) -> Plan:
    """Share `budget` units out among the running malleable actions and these waiting ones, of which
    `free` can be given away now. `pressed`: actions of a settled amount wait for units."""
    running = situation.running
    entries = [*running.malleable.values(), *waiting]
    claims = [(entry, _claim(entry, situation)) for entry in entries]
    claims.sort(key=lambda pair: (pair[1].work_s, pair[0].key))
    beyond = claims[SHARED_MAX:]
    del claims[SHARED_MAX:]
    budget -= sum(claim.held for _, claim in beyond)
    shares = share_out(budget, [claim for _, claim in claims], expected)
    starts: list[tuple[Entry, int]] = []
    resizes: list[tuple[Entry, int]] = []
    unmet = pressed
    for (entry, claim), units in zip(claims, shares, strict=True):
        change = units - claim.held
        if change < 0 and (pressed or waiting or -change >= CHANGE_MIN * claim.held):
            resizes.append((entry, units))
        elif change > 0 and (not claim.held or change >= CHANGE_MIN * claim.held):
            index = claim.choices.at_most(min(units, claim.held + free))
            if index is None or claim.choices.units[index] <= claim.held:
                unmet = True
                continue
            units = claim.choices.units[index]
            free -= units - claim.held
            (resizes if claim.held else starts).append((entry, units))
    again_s = _unlocked_s(situation) if unmet or free > 0 else math.inf
    return Plan(starts, again_s, resizes)


def _claim(entry: Entry, situation: Situation) -> Claim:
    assert entry.choices is not None
    if not entry.token:
        return Claim(entry.choices, 0)
    held = entry.amounts[situation.resource]
    fixed = bool(entry.change) or situation.now < entry.since_s + HOLD_S
    return Claim(entry.choices, held, situation.running.left(entry, situation.now), fixed)


def _unlocked_s(situation: Situation) -> float:
    """When the next of those that keep their units for now may change."""
    times = (entry.since_s + HOLD_S for entry in situation.running.malleable.values())
    return min((time for time in times if time > situation.now), default=math.inf)
