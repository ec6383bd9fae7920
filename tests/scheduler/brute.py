"""What is right by trying everything: feasible amounts and least totals on small cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from hypothesis import strategies as st

from tangram.scheduler.choices import Choices
from tangram.scheduler.operators import ChunkCounts, LinearUnits, Operator

LEVELS = 4


def feasible(operator: Operator, amounts: Sequence[int]) -> bool:
    """All at once, decided apart from the operators: by sums, or by packing aligned chunks."""
    if isinstance(operator, LinearUnits):
        return sum(amounts) <= operator.units
    return _packs(operator.counts, tuple(sorted(1 << (k - 1).bit_length() for k in amounts)))


@lru_cache(maxsize=1 << 16)
def _packs(counts: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Each size into some chunk, where any chunk may be halved at will: every way is tried."""
    if not sizes:
        return True
    *others, size = sizes
    return any(_packs(left, tuple(others)) for left in _takes(counts, size))


@lru_cache(maxsize=1 << 16)
def _takes(counts: tuple[int, ...], size: int) -> frozenset[tuple[int, ...]]:
    """What may be left once a chunk of this size is taken, by every way of halving."""
    found: set[tuple[int, ...]] = set()
    for level, count in enumerate(counts):
        if not count or 1 << level < size:
            continue
        fewer = list(counts)
        fewer[level] -= 1
        if 1 << level == size:
            found.add(tuple(fewer))
        else:
            fewer[level - 1] += 2
            found |= _takes(tuple(fewer), size)
    return frozenset(found)


def least_total_s(candidates: Sequence[Choices], operator: Operator) -> float:
    """Over all feasible amounts of all candidates, added up in their order; infinite if none fit."""
    best = math.inf
    for picked in product(*(zip(c.units, c.durations_s, strict=True) for c in candidates)):
        total_s = 0.0
        for _, duration_s in picked:
            total_s += duration_s
        if total_s < best and feasible(operator, [units for units, _ in picked]):
            best = total_s
    return best


def total_s(candidates: Sequence[Choices], amounts: Sequence[int]) -> float:
    total = 0.0
    for choices, amount in zip(candidates, amounts, strict=True):
        total += choices.duration_s(amount)
    return total


def any_choices(seconds: st.SearchStrategy[float]) -> st.SearchStrategy[Choices]:
    """Any amounts with any such durations, scaling or not."""

    def timed(units: list[int]) -> st.SearchStrategy[Choices]:
        durations = st.lists(seconds, min_size=len(units), max_size=len(units))
        return durations.map(lambda drawn: Choices(tuple(sorted(units)), tuple(drawn)))

    return st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).flatmap(timed)


def steady_choices() -> st.SearchStrategy[Choices]:
    """Gains that never rise, in eighths of a second, so that sums are exact."""

    def built(low: int, last: int, gains: list[int]) -> Choices:
        durations = [last + sum(gains)]
        for gain in sorted(gains, reverse=True):
            durations.append(durations[-1] - gain)
        floor = min(durations)
        seconds = tuple((duration - floor + last) / 8 for duration in durations)
        return Choices(tuple(range(low, low + len(seconds))), seconds)

    gains = st.lists(st.integers(-3, 40), max_size=3)
    return st.builds(built, st.integers(1, 3), st.integers(0, 40), gains)


linear_units = st.integers(0, 16).map(LinearUnits)
chunk_counts = st.lists(st.integers(0, 2), min_size=LEVELS, max_size=LEVELS).map(
    lambda counts: ChunkCounts(tuple(counts))
)
