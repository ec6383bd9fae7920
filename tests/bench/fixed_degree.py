"""The baseline of a fixed degree of parallelism, for single actions on one node.

First come, first served: every elastic action gets the same number of cores, all others their
least, and who does not fit holds up those behind. The policy `fixed:N` of the scheduler does the
same (a test compares them); this is a hundred times faster, so that all degrees can be tried and
the best of them be the baseline.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

from tangram.scheduler.simulator.trace import TraceTrajectory

DEGREES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def mean_acts_s(
    trajectories: Sequence[TraceTrajectory], cores: int, degrees: Sequence[int]
) -> Mapping[int, float]:
    """Degree -> mean ACT in seconds."""
    return {degree: mean_act_s(trajectories, cores, degree) for degree in degrees}


def mean_act_s(trajectories: Sequence[TraceTrajectory], cores: int, degree: int) -> float:
    """Raises ValueError unless every trajectory has one action; they stand in order of arrival."""
    free = cores
    now_s = 0.0
    ends: list[tuple[float, int]] = []
    acts_s: list[float] = []
    for trajectory in trajectories:
        (action,) = trajectory.actions
        submitted_s = trajectory.start_s + action.gap_s
        units = action.amounts.at_most(min(degree, cores))
        now_s = max(now_s, submitted_s)
        while free < units or (ends and ends[0][0] <= now_s):
            end_s, freed = heapq.heappop(ends)
            now_s = max(now_s, end_s)
            free += freed
        run_s = action.profile.run_s(units)
        assert run_s is not None
        free -= units
        heapq.heappush(ends, (now_s + run_s, units))
        acts_s.append(now_s + run_s - submitted_s)
    return math.fsum(acts_s) / len(acts_s)
