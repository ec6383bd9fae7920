"""The bound of one machine that is as fast as all cores together: shortest remaining work first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from .chains import Link, fastest_sum


def srpt_sum(chains: Sequence[Sequence[Link]], cores: int, whole: bool) -> float:
    """Bound on the sum of ACTs from the core-seconds that have to be done.

    The ACTs of one trajectory add up to its end, less its start and its gaps, since each action is
    submitted a gap after the end of the one before it. So a bound on the sum of ends of all
    trajectories is one on the sum of ACTs. Let one machine as fast as all cores together do of each
    trajectory one job that cannot begin before `earliest_s`, with the least core-seconds, and
    forget all else: nodes, the limit of one action's cores, and when `whole` (the job is all its
    actions) the gaps between them, otherwise (the job is its action with most work) the work of the
    others, which then take their fastest time before and after it. The sum of ends on one machine
    with preemption is least with shortest remaining processing time first (Schrage, Operations
    Research 16, 1968)."""
    jobs: list[tuple[float, float]] = []
    total_s = 0.0
    for chain in chains:
        heavy = max(chain, key=lambda link: link.core_s, default=None)
        # What was refused after a wait does not fit the sum above; the fastest is valid for it.
        if heavy is None or not heavy.core_s or any(link.waited_s for link in chain):
            total_s += fastest_sum(chain)
            continue
        first_s = chain[0].earliest_s - chain[0].trace.gap_s
        idle_s = first_s + math.fsum(link.trace.gap_s for link in chain)
        tail_s = 0.0
        if not whole:
            after = chain[chain.index(heavy) + 1 :]
            tail_s = math.fsum(link.trace.gap_s + link.fastest_s for link in after)
        release_s = chain[0].earliest_s if whole else heavy.earliest_s
        core_s = math.fsum(link.core_s for link in chain) if whole else heavy.core_s
        jobs.append((release_s, core_s / cores))
        total_s += tail_s - idle_s
    return total_s + sum_of_ends(sorted(jobs))


def sum_of_ends(jobs: Sequence[tuple[float, float]]) -> float:
    """Of (release, length), sorted, on one machine by shortest remaining first."""
    ends: list[float] = []
    left: list[float] = []
    now_s = 0.0
    for index, (release_s, length_s) in enumerate(jobs):
        now_s = max(now_s, release_s)
        heapq.heappush(left, length_s)
        until_s = jobs[index + 1][0] if index + 1 < len(jobs) else math.inf
        while left and now_s < until_s:
            shortest_s = heapq.heappop(left)
            if now_s + shortest_s > until_s:
                heapq.heappush(left, shortest_s - (until_s - now_s))
                now_s = until_s
            else:
                now_s += shortest_s
                ends.append(now_s)
    return math.fsum(ends)
