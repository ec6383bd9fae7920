"""Random durations as the sources state them. The generator is handed in; nothing else is random.

A lognormal is stated by its arithmetic mean or by its median, and by the standard deviation of its
log. Which numbers go in stands with each workload.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple


def lognormal(generator: random.Random, mean: float, sigma: float) -> float:
    """Of this arithmetic mean; `sigma` is that of the log, so the log's mean is
    ln(mean) - sigma^2 / 2."""
    return generator.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)


class Part(NamedTuple):
    """One lognormal of a mixture, by its median."""

    weight: float
    median: float
    sigma: float

    @property
    def mean(self) -> float:
        return self.median * math.exp(self.sigma * self.sigma / 2)


class Mixture:
    """Lognormals mixed by weight, never above `maximum`: how durations of several modes are
    stated."""

    def __init__(self, maximum: float, *parts: Part) -> None:
        self._maximum = maximum
        self._parts = parts
        self._weights = list(accumulate(part.weight for part in parts))

    @property
    def mean(self) -> float:
        """As if there were no maximum."""
        return sum(part.weight * part.mean for part in self._parts) / self._weights[-1]

    def draw(self, generator: random.Random) -> float:
        (part,) = generator.choices(self._parts, cum_weights=self._weights)
        drawn = generator.lognormvariate(math.log(part.median), part.sigma)
        return min(self._maximum, drawn)


def count(generator: random.Random, mean: float, sigma: float, minimum: int) -> int:
    """A lognormal rounded to the nearest integer, at least `minimum`."""
    return max(minimum, round(lognormal(generator, mean, sigma)))


def zipf_weights(number: int, exponent: float) -> Sequence[float]:
    """1 / rank^exponent, made to sum to 1: the largest first."""
    weights = [rank**-exponent for rank in range(1, number + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]
