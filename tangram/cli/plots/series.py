"""The numbers behind a plot: utilisation and waiting over time, shares of ACT, lanes of a Gantt.

Pure functions from simulation results to arrays; nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from ...scheduler.model import CORES
from ...scheduler.simulator.actions import GPUS, counts_gpus
from ...scheduler.simulator.result import ActionRun, SimulationResult

TIME_BINS = 480
"""Points of a curve over time: about two pixels each, whatever the number of actions."""

LANES_MAX = 1024
"""Lanes of one Gantt: more have less than a third of a pixel each."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bar:
    """`lanes` neighbouring lanes from `lane` on, held from start to end by `units` units."""

    lane: int
    lanes: int
    start_s: float
    end_s: float
    units: float


@dataclass(frozen=True, slots=True)
class Gantt:
    """What ran on one node's units of one kind, packed into lanes."""

    kind: str
    node: str
    capacity: int
    bars: tuple[Bar, ...]
    dropped: int
    """Holds that found no lane among LANES_MAX."""
    shared: bool
    """Units were shared out in fractions: an action has as many lanes as its mean share, rounded
    down, and at least one."""


def span_s(results: Sequence[SimulationResult]) -> float:
    """From the earliest start to the last end of any result; at least a microsecond."""
    ends = [action.ended_s for result in results for action in result.actions]
    return max(max(ends, default=0.0) - start_s(results), 1e-6)


def start_s(results: Sequence[SimulationResult]) -> float:
    return min(result.start_s for result in results)


def kinds(results: Sequence[SimulationResult]) -> list[str]:
    """Kinds of resources that have a capacity and were held, cores first. GPUs are one kind, also
    where each service has its own."""
    held = {_folded(a.resource) for result in results for a in result.actions if a.holds}
    counted = {_folded(kind) for result in results for kind, _ in result.capacities}
    return sorted(held & counted, key=lambda kind: (kind != CORES, kind))


def _folded(kind: str) -> str:
    return GPUS if counts_gpus(kind) else kind


def utilisation(result: SimulationResult, kind: str, edges: Array) -> Array:
    """Mean share of all units of `kind` that were held between each two of `edges` (seconds). Where
    units are shared out, a hold tells an action's mean share, so that sums may pass what there is
    for a moment: they are cut there."""
    capacity = sum(units for (k, _), units in result.capacities.items() if _folded(k) == kind)
    holds = [hold for a in result.actions if _folded(a.resource) == kind for hold in a.holds]
    starts = np.array([hold.start_s for hold in holds])
    ends = np.array([hold.end_s for hold in holds])
    units = np.array([hold.units for hold in holds])
    share = _mean_level(starts, ends, units, edges) / max(capacity, 1)
    return np.minimum(share, 1.0) if (units % 1).any() else share


def waiting(result: SimulationResult, edges: Array) -> Array:
    """Mean number of actions that waited between each two of `edges` (seconds)."""
    starts = np.array([a.submitted_s + a.sandbox_prepare_s for a in result.actions])
    ends = starts + np.array([a.queue_s for a in result.actions])
    return _mean_level(starts, ends, np.ones(len(starts)), edges)


def _mean_level(starts: Array, ends: Array, units: Array, edges: Array) -> Array:
    """Mean over each bin of the sum of the units whose stretch covers an instant: exact, from the
    integral of the step function at the edges."""
    if not len(starts):
        return np.zeros(len(edges) - 1)
    times = np.concatenate([starts, ends])
    changes = np.concatenate([units, -units])
    order = np.argsort(times, kind="stable")
    times, levels = times[order], np.cumsum(changes[order])
    area = np.concatenate([[0.0], np.cumsum(levels[:-1] * np.diff(times))])
    at_edges = np.interp(edges, times, area)
    mean: Array = np.maximum(np.diff(at_edges) / np.diff(edges), 0.0)
    return mean


def parts(result: SimulationResult) -> tuple[float, float, float]:
    """Mean queue, prepare and run of an action (seconds); they add up to the mean ACT."""
    number = max(len(result.actions), 1)
    queue_s = sum(action.queue_s for action in result.actions) / number
    prepare_s = sum(action.prepare_s for action in result.actions) / number
    act_s = sum(action.act_s for action in result.actions) / number
    return queue_s, prepare_s, act_s - queue_s - prepare_s


def gantt(result: SimulationResult, kind: str) -> Gantt:
    """The busiest node of `kind`: every hold in lanes of its own, lowest lanes first."""
    by_node: dict[str, list[ActionRun]] = {}
    for action in result.actions:
        if _folded(action.resource) == kind:
            by_node.setdefault(action.node, []).append(action)
    node = max(by_node, key=lambda name: _held(by_node[name]), default="")
    there: dict[str, int] = {}
    for (name, place), units in result.capacities.items():
        if _folded(name) == kind:
            there[place] = there.get(place, 0) + units
    capacity = there.get(node) or max(there.values(), default=1)
    runs = by_node.get(node, [])
    shared = any(hold.units % 1 for action in runs for hold in action.holds)
    holds = [hold for action in runs for hold in _stretches(action, shared)]
    bars, dropped = _pack(sorted(holds), min(LANES_MAX, capacity if not shared else LANES_MAX))
    return Gantt(kind, node, capacity, tuple(bars), dropped, shared)


def _held(runs: Iterable[ActionRun]) -> float:
    return sum((h.end_s - h.start_s) * h.units for action in runs for h in action.holds)


def _stretches(action: ActionRun, shared: bool) -> list[tuple[float, float, float]]:
    """(start, end, units) of its holds; where units are shared out, one stretch of the mean."""
    held = [(h.start_s, h.end_s, h.units) for h in action.holds if h.end_s > h.start_s]
    if not shared or not held:
        return held
    length_s = sum(end - start for start, end, _ in held)
    mean = sum((end - start) * units for start, end, units in held) / length_s
    return [(held[0][0], held[-1][1], mean)]


def _pack(holds: Sequence[tuple[float, float, float]], lanes: int) -> tuple[list[Bar], int]:
    """A lane per whole unit, neighbours where there are enough in a row; holds sorted by start."""
    free_from = np.full(lanes, -np.inf)
    bars: list[Bar] = []
    dropped = 0
    for start, end, units in holds:
        wanted = max(1, int(units))
        # Ends and starts at one instant may differ in their last bits.
        (free,) = np.nonzero(free_from <= start + 1e-9 * max(abs(start), 1.0))
        if len(free) < wanted:
            dropped += 1
            continue
        rows = np.nonzero(free[wanted - 1 :] - free[: len(free) - wanted + 1] == wanted - 1)[0]
        first = rows[0] if len(rows) else 0
        taken = free[first : first + wanted]
        free_from[taken] = end
        for lane, count in _runs(taken.tolist()):
            bars.append(Bar(lane, count, start, end, units))
    return bars, dropped


def _runs(lanes: Sequence[int]) -> list[tuple[int, int]]:
    """(first, count) of each stretch of consecutive numbers in a sorted list."""
    stretches = []
    for _, run in groupby(enumerate(lanes), key=lambda pair: pair[1] - pair[0]):
        numbers = [lane for _, lane in run]
        stretches.append((numbers[0], len(numbers)))
    return stretches
