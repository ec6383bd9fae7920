"""Trying another amount now and then, so that it is learned at all how actions alike scale.

While nothing is known an action gets its least amount; if all do, nothing ever will be. Only units
that idle are spent on it, and few of them.
"""

from __future__ import annotations

import math

from .model import Action
from .pattern import Prediction, Source

EVERY = 2
"""Of actions alike that ended, after each so many the next may get another amount: a fit needs half
as many runs elsewhere as at the commonest amount (`elasticity`). Once there are several amounts, each
time that they were looked at in vain lets the next action explore too."""

FREE_SHARE = 4
"""At most this share (a quarter) of the free units is spent on one action that explores."""


def explored(action: Action, prediction: Prediction, free: int, largest: int) -> int | None:
    """Another amount of its key resource than the least, or None: it is known how it scales, or it
    is not the turn, or the free units do not suffice.

    `free` are units that nobody waits for, `largest` the most that one grant may get. Amounts are
    the largest that may be had and, in turns, its square root, so that they tell a share of the work
    that does not scale from a start-up time. The same history gives the same amounts.
    """
    key = action.demand.key
    if key is None or prediction.profile.scales or prediction.source is not Source.LEARNED:
        return None
    if prediction.turn % EVERY:
        return None
    amounts = action.demand.of(key)
    most = min(free // FREE_SHARE, largest, amounts.maximum)
    if prediction.turn // EVERY % 2:
        most = math.isqrt(most * amounts.minimum)
    amount = amounts.at_most(most)
    return amount if amounts.minimum < amount <= most else None
