"""How actions scale, fitted to run times that were seen at different amounts. Pure arithmetic.

The model is Amdahl's law as in `model.Profile`: run(m) = T (1 + s (m - 1)) / m. Which observations
belong together is the business of `profile`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import median
from typing import NamedTuple

SERIAL_MIN = 0.001
"""No smaller share is ever fitted: it would speak of a thousand units, where none were seen."""

OBSERVATIONS_MIN = 8
"""Fewer observations in all tell nothing."""

ELSEWHERE_MIN = 4
"""So many observations must lie at other amounts than the most frequent one, so that a single odd
one cannot decide."""

SLOPE_ERROR_MAX = 0.2
"""Standard error of the slope of log(run time) over log(amount), which is 0 for work that does not
scale and -1 for work that scales perfectly: they must be told apart by five of them."""

SIGMA_MIN = 0.1
"""Run times of a pattern are taken to vary by at least this (sigma of the log), since a few that
happen to agree look as if they never did."""

_MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, of normal values: sqrt(pi / 2)."""

_SIGMA_PER_MAD = 1.4826
"""Standard deviation over median absolute deviation, of normal values."""

_GRID = (SERIAL_MIN, 0.003, 0.01, 0.02, 0.035, 0.06, 0.1, 0.15, 0.22, 0.32, 0.45, 0.65, 1.0)
_BISECTIONS = 6
"""Refinements within the grid: the bracket around its best point shrinks by 0.618 each time."""

_GOLDEN = (math.sqrt(5) - 1) / 2


class _Group(NamedTuple):
    units: int
    log_s: float
    """Median of the logs of the run times at this amount."""
    weight: int
    """How many there are."""


@lru_cache(maxsize=1024)
def log_time(serial: float, units: int) -> float:
    """Log of the run time with `units` in multiples of that with one."""
    return math.log((1 + serial * (units - 1)) / units)


def fit_serial(observations: Iterable[tuple[int, float]]) -> float | None:
    """The share s of the work that does not scale, from pairs of an amount and the log of the run
    time; None while the evidence is too thin (the constants above say when).

    Least absolute deviations over the medians of each amount: an outlier counts for its direction,
    not for its size. The scale T is the weighted median of what is left, for each s that is tried.
    """
    points = list(observations)
    logs: dict[int, list[float]] = defaultdict(list)
    for units, log_s in points:
        logs[units].append(log_s)
    groups = [_Group(units, median(values), len(values)) for units, values in logs.items()]
    most = max((group.weight for group in groups), default=0)
    if len(points) < OBSERVATIONS_MIN or len(points) - most < ELSEWHERE_MIN:
        return None
    serial = _search(groups)
    scale, _ = _deviation(groups, serial)
    shift = {group.units: scale + log_time(serial, group.units) for group in groups}
    mad = median(abs(log_s - shift[units]) for units, log_s in points)
    sigma = max(SIGMA_MIN, _SIGMA_PER_MAD * mad)
    mean = sum(group.weight * math.log(group.units) for group in groups) / len(points)
    width = sum(group.weight * (math.log(group.units) - mean) ** 2 for group in groups)
    if _MEDIAN_ERROR * sigma > SLOPE_ERROR_MAX * math.sqrt(width):
        return None
    return serial


def _search(groups: Sequence[_Group]) -> float:
    """The share of least deviation: the best of a grid, refined by golden section."""
    costs = [_deviation(groups, serial)[1] for serial in _GRID]
    best = min(range(len(_GRID)), key=costs.__getitem__)
    low, high = _GRID[max(0, best - 1)], _GRID[min(len(_GRID) - 1, best + 1)]
    for _ in range(_BISECTIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if _deviation(groups, left)[1] <= _deviation(groups, right)[1]:
            high = right
        else:
            low = left
    middle = (low + high) / 2
    return middle if _deviation(groups, middle)[1] < costs[best] else _GRID[best]


def _deviation(groups: Sequence[_Group], serial: float) -> tuple[float, float]:
    """Log of the scale that fits best with this share, and what deviates from it in all."""
    left = sorted((group.log_s - log_time(serial, group.units), group.weight) for group in groups)
    half = sum(group.weight for group in groups) / 2
    seen, scale = 0, left[-1][0]
    for value, count in left:
        seen += count
        if seen >= half:
            scale = value
            break
    return scale, sum(count * abs(value - scale) for value, count in left)
