"""The pieces of ARL-Tangram's algorithm as they are printed, errors and all.

For tests alone: each erratum is shown by what its printed form answers (arXiv 2603.13019, Algorithm
1, appendices A and B).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import TypeVar

T = TypeVar("T")
Duration = Callable[[int], float]


def kept_after(candidates: list[T], evictions: int) -> list[T]:
    """`C[:-t+1]`, at the t whose eviction did not help."""
    return candidates[: -evictions + 1]


def least_with_all_units(sets: Sequence[Sequence[int]], duration: Duration, units: int) -> float:
    """dp[m][n]: every one of the n units is used."""
    row = [0.0] + [math.inf] * units
    for amounts in sets:
        row = [
            min((row[j - k] + duration(k) for k in amounts if k <= j), default=math.inf)
            for j in range(units + 1)
        ]
    return row[units]


def estimate(
    heap: list[float], first: Duration, first_minimum: int, rest: Sequence[float], depth: int
) -> float:
    """The heap is popped before it is copied and popped itself later; the loop ends one short."""
    best = math.inf
    start = heappop(heap)
    for d in range(1, depth):
        copied = heap[:]
        end = start + first(d)
        total = end
        heappush(copied, end)
        for duration_s in rest:
            end = heappop(heap) + duration_s
            total += end
            heappush(copied, end)
        best = min(best, total)
    return best


def estimate_by_completions(ends: Sequence[float], rest: Sequence[float]) -> float:
    """Each completion is room for one action, whatever it frees and whatever that needs."""
    heap, total = sorted(ends), 0.0
    for duration_s in rest:
        end = heappop(heap) + duration_s
        total += end
        heappush(heap, end)
    return total


def chunks_after(counts: tuple[int, ...], amount: int) -> tuple[int, ...] | None:
    """Prev(j, k): k is taken apart from the largest chunk size down, no chunk is split."""
    left = list(counts)
    for level in range(len(counts) - 1, -1, -1):
        while amount >= 1 << level and left[level]:
            amount -= 1 << level
            left[level] -= 1
    return None if amount else tuple(left)


def linearised(counts: tuple[int, ...], most: tuple[int, ...]) -> int:
    """a + (N1 + 1) b + (N1 + 1)(N2 + 1) c + ..."""
    total, weight = 0, 1
    for count, limit in zip(counts, most, strict=True):
        total += count * weight
        weight *= limit + 1
    return total


def is_legal_chunk(start: int, size: int) -> bool:
    """`start | 2**a`: the start divides the size."""
    return start > 0 and size % start == 0
