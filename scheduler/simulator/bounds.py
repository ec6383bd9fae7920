"""Lower bounds on the mean ACT of a trace on a cluster: a figure below one is a bug, not a success.

Each bound forgets something that a real schedule has to respect, and says what. They are over the
actions that have a result; refused ones take no time and no cores.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from ..model import Amounts, State
from .actions import Plan
from .cluster import ClusterSpec
from .result import ActionRun
from .trace import CALL, EXEC, SCORE, TraceAction

SEARCH_STEPS = 24
"""Of the search for the best price: any price gives a bound, so it need not be exact."""

PRICE_EXPONENTS = (-5.0, 2.0)
"""Of ten: prices of a core-second that are tried, in seconds of ACT. Below, it is no price; above,
nobody runs before H."""

PRICED_MAX = 200_000
"""Actions times amounts of those that run near the end of the priced time: looked at one by one."""


@dataclass(frozen=True, slots=True)
class Freedom:
    """What the policy may do that others may not, so that its bounds hold for it."""

    unlimited: bool = False
    """There is no limit of cores."""
    shares: bool = False
    """An action may get any part of a core, and other amounts than its feasible ones (pods)."""


def lower_bounds(
    walks: Sequence[tuple[float, Sequence[Plan]]],
    ended: Sequence[ActionRun],
    cluster: ClusterSpec,
    freedom: Freedom,
) -> dict[str, float]:
    """Name -> bound on the mean ACT, in seconds. `walks` are the starts of the trajectories and
    their actions. "fastest" holds always, "srpt" where cores are limited, "price" where besides
    every trajectory has one action and none changes its amount while it runs. Empty if no action
    has a result."""
    runs = {run.id: run for run in ended}
    shapes = _Shapes(cluster, freedom)
    chains = [_chain(start_s, plans, runs, shapes) for start_s, plans in walks]
    count = sum(link.counted for chain in chains for link in chain)
    if not count:
        return {}
    bounds = {"fastest": sum(_fastest_sum(chain) for chain in chains) / count}
    if freedom.unlimited or not cluster.cores:
        return bounds
    bounds["srpt"] = max(_srpt(chains, cluster.cores, whole) for whole in (True, False)) / count
    single = all(len(chain) <= 1 for chain in chains)
    resized = any(link.trace.malleable for chain in chains for link in chain)
    if single and not resized and not freedom.shares:
        jobs = [chain[0] for chain in chains if chain and chain[0].counted]
        bounds["price"] = _priced(jobs, cluster.cores) / count
    return bounds


_CurveKey: TypeAlias = tuple[Amounts, float | None, tuple[tuple[int, float], ...], int]


@dataclass(frozen=True, slots=True)
class _Link:
    """One action of a chain: when it can be submitted at the earliest, and the least it takes."""

    trace: TraceAction
    counted: bool
    waited_s: float
    """If it is not counted, how long it took to be refused."""
    earliest_s: float
    fastest_s: float
    core_s: float
    """The fewest core-seconds that it can be done with; 0 of what takes no cores."""
    units: tuple[int, ...]
    """Amounts among which its fastest and its cheapest are."""


class _Shape(NamedTuple):
    """Of all actions that scale alike, for one second of work with one unit."""

    units: tuple[int, ...]
    """Amounts among which the fastest and the cheapest are."""
    fastest_s: float
    core_s: float


class _Shapes:
    """What the actions of a trace may get at most, worked out once for all that are alike."""

    def __init__(self, cluster: ClusterSpec, freedom: Freedom) -> None:
        self.freedom = freedom
        self._cores = max((node.cores for node in cluster.nodes), default=0)
        self._gpus = cluster.gpus.total if cluster.gpus is not None else 0
        self._known: dict[tuple[object, ...], _Shape] = {}

    def of(self, trace: TraceAction) -> _Shape:
        if trace.kind == CALL:
            return _OF_CALL
        table = tuple(trace.elasticity.items()) if trace.elasticity else ()
        key = (trace.kind == SCORE, trace.amounts, trace.serial, table)
        shape = self._known.get(key)
        if shape is None:
            units = self._units(trace)
            curve = _curve(trace, units)
            fastest_s = min(run_s for _, run_s in curve)
            core_s = 0.0 if trace.kind == SCORE else min(n * run_s for n, run_s in curve)
            shape = self._known[key] = _Shape(units, fastest_s, core_s)
        return shape

    def _units(self, trace: TraceAction) -> tuple[int, ...]:
        """Run time falls or rises steadily between the entries of a table, and so does the work:
        the ends and the entries are enough."""
        amounts = trace.amounts
        most = self._gpus if trace.kind == SCORE else self._cores
        if trace.kind != SCORE and self.freedom.unlimited:
            most = amounts.maximum
        if trace.kind != SCORE and self.freedom.shares:
            amounts = Amounts.between(1, amounts.maximum)
        if amounts.values:
            return tuple(n for n in amounts.values if n <= most) or (amounts.minimum,)
        entries = {n for n in trace.elasticity if n in amounts and n <= most}
        ends = {amounts.minimum, max(amounts.minimum, min(amounts.maximum, most))}
        return tuple(sorted(ends | entries))


_OF_CALL = _Shape((1,), 1.0, 0.0)
"""However much of a quota it takes, it takes its time and no cores."""


def _chain(
    start_s: float, plans: Sequence[Plan], runs: Mapping[str, ActionRun], shapes: _Shapes
) -> list[_Link]:
    links: list[_Link] = []
    at_s = start_s
    for plan in plans:
        trace, run = plan.trace, runs[plan.action.id]
        at_s += trace.gap_s
        if run.state is not State.FINISHED:
            links.append(_Link(trace, False, run.act_s, at_s, 0.0, 0.0, ()))
            continue
        shape = shapes.of(trace)
        fastest_s = trace.duration_s * shape.fastest_s
        core_s = trace.duration_s * shape.core_s
        if trace.timeout_s is not None:
            # What is cut at its timeout need not be done: it holds its least amount until then.
            fastest_s = min(fastest_s, trace.timeout_s)
            core_s = min(core_s, shape.units[0] * trace.timeout_s)
            core_s = 0.0 if shapes.freedom.shares else core_s
        links.append(_Link(trace, True, 0.0, at_s, fastest_s, core_s, shape.units))
        at_s += fastest_s
    return links


def _fastest_sum(chain: Sequence[_Link]) -> float:
    """No action is faster than at its fastest feasible amount, never queued. Forgets that others
    need cores too."""
    return math.fsum(link.fastest_s for link in chain)


# One machine, shortest remaining work first


def _srpt(chains: Sequence[Sequence[_Link]], cores: int, whole: bool) -> float:
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
            total_s += _fastest_sum(chain)
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


# A price on cores


def _priced(jobs: Sequence[_Link], cores: int) -> float:
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


def _best_price(jobs: Sequence[_Link], until_s: float, core_s: float) -> float:
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

    def __init__(self, jobs: Sequence[_Link], until_s: float) -> None:
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
                self._curves.append(_curve(trace, feasible))
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


def _curve(trace: TraceAction, units: Iterable[int]) -> list[tuple[int, float]]:
    """Amounts and the run time of one second's work with them."""
    unit = replace(trace, duration_s=1.0).profile
    return [(n, run_s) for n in units if (run_s := unit.run_s(n)) is not None]
