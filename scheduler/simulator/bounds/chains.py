"""What the actions of a trajectory need at least: when each can be submitted, how fast it can be, how
few core-seconds it takes. The bound that needs no more than that, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...model import Amounts, State
from ..actions import Staged
from ..cluster import ClusterSpec
from ..result import ActionRun
from ..trace import CALL, SCORE, TraceAction


@dataclass(frozen=True, slots=True)
class Freedom:
    """What the policy may do that others may not, so that its bounds hold for it."""

    unlimited: bool = False
    """There is no limit of cores."""
    shares: bool = False
    """An action may get any part of a core, and other amounts than its feasible ones (pods)."""


@dataclass(frozen=True, slots=True)
class Link:
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


class Shape(NamedTuple):
    """Of all actions that scale alike, for one second of work with one unit."""

    units: tuple[int, ...]
    """Amounts among which the fastest and the cheapest are."""
    fastest_s: float
    core_s: float


class Shapes:
    """What the actions of a trace may get at most, worked out once for all that are alike."""

    def __init__(self, cluster: ClusterSpec, freedom: Freedom) -> None:
        self.freedom = freedom
        self._cores = max((node.cores for node in cluster.nodes), default=0)
        self._gpus = cluster.gpus.total if cluster.gpus is not None else 0
        self._known: dict[tuple[object, ...], Shape] = {}

    def of(self, trace: TraceAction) -> Shape:
        if trace.kind == CALL:
            return _OF_CALL
        table = tuple(trace.elasticity.items()) if trace.elasticity else ()
        key = (trace.kind == SCORE, trace.amounts, trace.serial, table)
        shape = self._known.get(key)
        if shape is None:
            units = self._units(trace)
            curve = curve_of(trace, units)
            fastest_s = min(run_s for _, run_s in curve)
            core_s = 0.0 if trace.kind == SCORE else min(n * run_s for n, run_s in curve)
            shape = self._known[key] = Shape(units, fastest_s, core_s)
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


_OF_CALL = Shape((1,), 1.0, 0.0)
"""However much of a quota it takes, it takes its time and no cores."""


def chain_of(
    start_s: float, actions: Sequence[Staged], runs: Mapping[str, ActionRun], shapes: Shapes
) -> list[Link]:
    links: list[Link] = []
    at_s = start_s
    for staged in actions:
        trace, run = staged.trace, runs[staged.action.id]
        at_s += trace.gap_s
        if run.state is not State.FINISHED:
            links.append(Link(trace, False, run.act_s, at_s, 0.0, 0.0, ()))
            continue
        shape = shapes.of(trace)
        fastest_s = trace.duration_s * shape.fastest_s
        core_s = trace.duration_s * shape.core_s
        if trace.timeout_s is not None:
            # What is cut at its timeout need not be done: it holds its least amount until then.
            fastest_s = min(fastest_s, trace.timeout_s)
            core_s = min(core_s, shape.units[0] * trace.timeout_s)
            core_s = 0.0 if shapes.freedom.shares else core_s
        links.append(Link(trace, True, 0.0, at_s, fastest_s, core_s, shape.units))
        at_s += fastest_s
    return links


def fastest_sum(chain: Sequence[Link]) -> float:
    """No action is faster than at its fastest feasible amount, never queued. Forgets that others
    need cores too."""
    return math.fsum(link.fastest_s for link in chain)


def curve_of(trace: TraceAction, units: Iterable[int]) -> list[tuple[int, float]]:
    """Amounts and the run time of one second's work with them."""
    unit = replace(trace, duration_s=1.0).profile
    return [(n, run_s) for n in units if (run_s := unit.run_s(n)) is not None]
