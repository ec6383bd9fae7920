"""The published algorithm: which of the waiting actions start now, with how many units each.

ARL-Tangram, arXiv 2603.13019: Algorithm 1 in section 4.2, the estimate in appendix A, DPArrange in
appendix B (`arrange.tabulate`). One call serves one group, the actions of one key resource. Where
the printed form is in error it is mended:

1. Evictions are counted; the printed slice is empty where nothing is evicted. At least one action
   stays, since to evict all helps nobody.
2. Units may stay idle; the printed programme reads the state in which all are used, which sets of
   amounts may not reach.
3. Every depth of the estimate starts from its own copy of the heap, and `depth` of them are tried;
   the printed one pops the heap before copying it, pops the original later, and stops one short.
4. The d-th choice is the d-th feasible amount, not d units.
5. A completion frees the units that it held, and who waits needs as many as it asks for; the printed
   estimate takes each completion for room for exactly one action.
6. Chunks are split and rounded up as the allocator does it; the printed step splits none, and
   serves 8 GPUs from two chunks of 4 and 3 from 2 + 1.
7. Feasibility of chunks is decided level by level; the printed bound compares linearised vectors.
8. A chunk starts at a multiple of its size (printed the other way round): `managers.gpu.chunks`.
9. What other groups take of this resource, not being their key, is set aside first (`others`).

Cost: one table, O(n m S), for all n evictions; each of them backtracks, O(n S) with n <= m, and
makes `depth` estimates over what it evicted, what runs and at most REST_MAX more.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TypeAlias

from .arrange import tabulate
from .choices import Choices
from .operators import Operator
from .records import Entry, Rank
from .situation import Plan, Situation

REST_MAX = 512
"""Waiting actions behind the candidates that the estimate looks at: under a millisecond a depth. They
are the same ones at every eviction, so the estimates compare; those further back would only add to
what these show already."""

DEPTH = 2
"""Choices tried for the first remaining action, as in the paper's evaluation."""

GAIN_MIN = 1e-9
"""Share of the objective that an eviction has to save: less is rounding."""

End: TypeAlias = tuple[float, int]
"""When units come free, and how many."""


@dataclass(frozen=True, slots=True)
class Published:
    """The policy `arl-tangram`: first come first served, amounts as in the paper."""

    depth: int = DEPTH
    merged: bool = True

    def rank(self, entry: Entry) -> Rank:
        return (entry.key[0], 0.0, entry.key[1], entry.id)

    def patience_s(self, entry: Entry) -> float:
        return math.inf

    def arrange(self, situation: Situation) -> Plan:
        waiting, fitting, now = situation.waiting, situation.fitting, situation.now
        chosen = arrange_published(
            [choices_of(entry) for entry in waiting[:fitting]],
            [choices_of(entry) for entry in waiting[fitting : fitting + REST_MAX]],
            situation.running.ends(now),
            situation.operator,
            now,
            self.depth,
        )
        return Plan([(waiting[index], units) for index, units in chosen])


def choices_of(entry: Entry) -> Choices:
    assert entry.choices is not None, "only those that choose are asked"
    return entry.choices


def arrange_published(
    candidates: Sequence[Choices],
    rest: Sequence[Choices],
    running: Sequence[End],
    operator: Operator,
    now: float,
    depth: int = DEPTH,
    others: Sequence[int] = (),
) -> list[tuple[int, int]]:
    """Index and units of each candidate that starts now; the others go on waiting.

    `candidates` are the first come that fit on all their resources at their minimum amounts, `rest`
    who waits behind them for the same key resource, both in order; an action that is not known to
    scale has its minimum as only choice. `running` says when what runs is
    predicted to end (now, if that is past) and what it holds; `others` are the amounts that
    candidates of other groups take of this resource. Candidates that do not fit beside those wait.
    Raises ValueError if `others` alone do not fit or `depth` is less than 1.
    """
    if depth < 1:
        raise ValueError(f"depth is at least 1, not {depth}")
    free = operator.less(others)
    fitting = free.longest_prefix(choices.minimum for choices in candidates)
    if not any(choices.elastic for choices in candidates[:fitting]):
        return [(index, choices.minimum) for index, choices in enumerate(candidates[:fitting])]
    table = tabulate(candidates, free)
    ends = [(max(end, now), units) for end, units in running]
    behind = rest[:REST_MAX]
    amounts = table.amounts(table.longest)
    started = _Started(candidates, amounts, ends, operator, now)

    def objective_s() -> float:
        remaining = [*candidates[len(started.runs_s) :], *behind]
        spare = free.free_units - sum(started.held)
        return sum(started.runs_s) + estimate_s(
            started.ends, spare, remaining, operator, now, depth
        )

    least_s = objective_s()
    for count in range(table.longest - 1, 0, -1):
        fewer = table.amounts(count)
        started.become(fewer)
        total_s = objective_s()
        if total_s >= least_s * (1 - GAIN_MIN):
            break
        amounts, least_s = fewer, total_s
    return list(enumerate(amounts))


class _Started:
    """What would run if the first candidates started with these amounts. An eviction changes a few
    of them; only those are booked anew."""

    def __init__(
        self,
        candidates: Sequence[Choices],
        amounts: Sequence[int],
        ends: Sequence[End],
        operator: Operator,
        now: float,
    ) -> None:
        self._candidates = candidates
        self._amounts = amounts
        self._operator = operator
        self._now = now
        self.runs_s = [c.duration_s(n) for c, n in zip(candidates, amounts, strict=False)]
        """Durations of the candidates that start."""
        self.held = [operator.occupied(amount) for amount in amounts]
        """Units that each keeps from all others."""
        started = ((now + run_s, n) for run_s, n in zip(self.runs_s, self.held, strict=True))
        self.ends: list[End] = sorted([*ends, *started])
        """Of these, and of what runs already."""

    def become(self, amounts: Sequence[int]) -> None:
        """Fewer candidates, or other amounts."""
        before, self._amounts = self._amounts, amounts
        for index in range(len(amounts), len(before)):
            self._drop_end(index)
        del self.runs_s[len(amounts) :], self.held[len(amounts) :]
        for index, amount in enumerate(amounts):
            if amount != before[index]:
                self._drop_end(index)
                run_s = self.runs_s[index] = self._candidates[index].duration_s(amount)
                held = self.held[index] = self._operator.occupied(amount)
                insort(self.ends, (self._now + run_s, held))

    def _drop_end(self, index: int) -> None:
        end = (self._now + self.runs_s[index], self.held[index])
        del self.ends[bisect_left(self.ends, end)]


def estimate_s(
    ends: list[End],
    spare: int,
    rest: Sequence[Choices],
    operator: Operator,
    now: float,
    depth: int,
) -> float:
    """Seconds from now to the ends of all of `rest` together (appendix A). Each starts in order at
    its minimum as soon as enough units are free, of `spare` and of `ends`, which this sorts; the
    first one gets the best of its `depth` smallest amounts."""
    if not rest:
        return 0.0
    ends.sort()
    asked = [(operator.occupied(choices.units[0]), choices.durations_s[0]) for choices in rest]
    least_s = math.inf
    for units, run_s in list(zip(rest[0].units, rest[0].durations_s, strict=True))[:depth]:
        asked[0] = operator.occupied(units), run_s
        heap, clock, left, total_s = ends[:], now, spare, 0.0  # what is sorted is a heap
        for needed, run_s in asked:
            while left < needed and heap:
                clock, freed = heappop(heap)
                left += freed
            # Nothing may be known to end that holds what is missing: then it starts with the last.
            left = left - needed if left > needed else 0
            end = clock + run_s
            total_s += end - now
            heappush(heap, (end, needed))
        least_s = min(least_s, total_s)
    return least_s
