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
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
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

    def objective_s(amounts: Sequence[int]) -> float:
        kept = candidates[: len(amounts)]
        durations = [c.duration_s(amount) for c, amount in zip(kept, amounts, strict=True)]
        held = [operator.occupied(amount) for amount in amounts]
        started = [(now + run_s, units) for run_s, units in zip(durations, held, strict=True)]
        remaining = [*candidates[len(amounts) :], *behind]
        spare = free.free_units - sum(held)
        return sum(durations) + estimate_s(ends + started, spare, remaining, operator, now, depth)

    amounts = table.amounts(table.longest)
    least_s = objective_s(amounts)
    for count in range(table.longest - 1, 0, -1):
        fewer = table.amounts(count)
        total_s = objective_s(fewer)
        if total_s >= least_s * (1 - GAIN_MIN):
            break
        amounts, least_s = fewer, total_s
    return list(enumerate(amounts))


def estimate_s(
    ends: list[End],
    spare: int,
    rest: Sequence[Choices],
    operator: Operator,
    now: float,
    depth: int,
) -> float:
    """Seconds from now to the ends of all of `rest` together (appendix A). Each starts in order at
    its minimum as soon as enough units are free, of `spare` and of `ends`, which this reorders; the
    first one gets the best of its `depth` smallest amounts."""
    if not rest:
        return 0.0
    heapify(ends)
    least_s = math.inf
    for first in range(min(depth, len(rest[0].units))):
        heap, clock, left, total_s = ends[:], now, spare, 0.0
        for place, choices in enumerate(rest):
            chosen = 0 if place else first
            needed = operator.occupied(choices.units[chosen])
            while left < needed and heap:
                clock, freed = heappop(heap)
                left += freed
            # Nothing may be known to end that holds what is missing: then it starts with the last.
            left = max(0, left - needed)
            end = clock + choices.durations_s[chosen]
            total_s += end - now
            heappush(heap, (end, needed))
        least_s = min(least_s, total_s)
    return least_s
