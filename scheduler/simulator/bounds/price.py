"""The bound of a price on cores, for single actions whose arrivals are known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from ...model import Amounts
from ..trace import EXEC
from .chains import Link, curve_of

SEARCH_STEPS = 24
"""Of the search for the best price: any price gives a bound, so it need not be exact."""

PRICE_EXPONENTS = (-5.0, 2.0)
"""Of ten: prices of a core-second that are tried, in seconds of ACT. Below, it is no price; above,
nobody runs before H."""

PRICED_MAX = 200_000
"""Actions times amounts of those that run near the end of the priced time: looked at one by one."""

_CurveKey: TypeAlias = tuple[Amounts, float | None, tuple[tuple[int, float], ...], int]


def priced_sum(jobs: Sequence[Link], cores: int) -> float:
    """Bound on the sum of ACTs for known arrivals: a Lagrangian relaxation of the limit of cores.

    Let core time cost a price from the first arrival until an instant H and nothing later. Every
    schedule holds at most all cores at each instant, so the sum of its ACTs is at least the sum of
    ACTs and of prices paid, less price * cores * (H - first arrival). Without the limit each action
    is free to choose: it starts at its arrival or at H (its cost in between is linear in its start)
    with the amount that is cheapest; whatever a schedule does costs it no less. This holds for each
    price and H, so the best of them is searched. Forgets nodes, and that cores may be short at one
    instant and idle at another while the price holds."""
    fixed_s = math.fsum(job.fastest_s for job in jobs if job.trace.runs_as != EXEC)
    jobs = [job for job in jobs if job.trace.runs_as == EXEC]
    if not jobs:
        return fixed_s
    arrivals = [job.earliest_s for job in jobs]
    first_s, last_s = min(arrivals), max(arrivals)
    backlog_s = math.fsum(job.core_s for job in jobs) / cores
    best = 0.0
    for until_s in (last_s, last_s + backlog_s / 2):
        if until_s > first_s:
            best = max(best, _best_price(jobs, until_s, cores * (until_s - first_s)))
    return best + fixed_s


def _best_price(jobs: Sequence[Link], until_s: float, core_s: float) -> float:
    """The highest bound of any price until H, by golden section: it is concave in the price."""
    costs = _Costs(jobs, until_s)
    if costs.looked_at > PRICED_MAX:
        return 0.0

    def bound(exponent: float) -> float:
        price = math.pow(10.0, exponent)
        return costs.least(price) - price * core_s

    low, high = PRICE_EXPONENTS
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = bound(left), bound(right)
    best = max(at_left, at_right)
    for _ in range(SEARCH_STEPS):
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = bound(right)
        else:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = bound(left)
        best = max(best, at_left, at_right)
    return best


class _Costs:
    """What all actions cost at least, at a price until H. Those that end before H at any amount,
    the most of them, cost their duration times a factor that is the same for all of one curve."""

    def __init__(self, jobs: Sequence[Link], until_s: float) -> None:
        self._curves: list[list[tuple[int, float]]] = []
        """Amounts and the run time of one second's work with them."""
        self._inside: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        """Curve -> duration and the cost of starting at H."""
        self._across: list[tuple[float, float, list[tuple[int, float]]]] = []
        """Time until H, the cost of starting there, amounts and run times."""
        self.looked_at = 0
        known: dict[_CurveKey, int] = {}
        for job in jobs:
            trace = job.trace
            key = (trace.amounts, trace.serial, tuple(trace.elasticity.items()), job.units[-1])
            if key not in known:
                known[key] = len(self._curves)
                feasible = [n for n in trace.amounts if n <= job.units[-1]]
                self._curves.append(curve_of(trace, feasible))
            curve = self._curves[known[key]]
            left_s = until_s - job.earliest_s
            longest_s = trace.duration_s * max(run_s for _, run_s in curve)
            if trace.timeout_s is None and longest_s <= left_s:
                self._inside[known[key]].append((trace.duration_s, left_s + job.fastest_s))
                continue
            timeout_s = math.inf if trace.timeout_s is None else trace.timeout_s
            runs_s = [(n, min(timeout_s, trace.duration_s * run_s)) for n, run_s in curve]
            self._across.append((left_s, left_s + job.fastest_s, runs_s))
            self.looked_at += len(runs_s)

    def least(self, price: float) -> float:
        total_s = 0.0
        for index, jobs in self._inside.items():
            factor = min(run_s * (1 + price * n) for n, run_s in self._curves[index])
            total_s += math.fsum(min(factor * duration_s, late_s) for duration_s, late_s in jobs)
        for left_s, late_s, runs_s in self._across:
            now_s = min(run_s + price * n * min(run_s, left_s) for n, run_s in runs_s)
            total_s += min(now_s, late_s)
        return total_s
