"""The search for the smallest pool that meets a target, and what keeps a smaller one from it.

Arithmetic over an `evaluate` function that the caller hands in, which simulates a pool and says how
near to the target it comes. No IO and no simulation here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..model import CORES, MEMORY, UNITS_MAX, State
from .actions import GPUS, opened, resource_kind
from .cluster import ClusterSpec
from .result import ActionRun, SimulationResult
from .summary import mean, per_trajectory, percentile
from .trace import CALL, EXEC, SCORE, TraceAction, TraceTrajectory

STATISTICS = "mean, p1 to p99, max, queue, trajectory or makespan"
_PERCENTILE = re.compile(r"p([1-9]\d?(?:\.\d+)?)")
_FIXED = frozenset({"mean", "max", "queue", "trajectory", "makespan"})


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of a simulation, and the most that it may be (seconds).

    `mean`, `max` and `pNN` are of the actions' completion times (ACT), `queue` is the mean time
    that actions wait, `trajectory` the mean over trajectories of the sum of their ACT.
    Raises ValueError for another statistic or a limit that is not positive and finite.
    """

    statistic: str
    limit_s: float

    def __post_init__(self) -> None:
        if self.statistic not in _FIXED and _PERCENTILE.fullmatch(self.statistic) is None:
            raise ValueError(f"{self.statistic!r} is no statistic: write {STATISTICS}")
        if not 0 < self.limit_s < math.inf:
            raise ValueError(f"a limit is a positive number of seconds, not {self.limit_s}")

    def of(self, result: SimulationResult) -> float:
        """The figure in seconds; infinite where an action never finished, 0 without actions."""
        if any(action.state is not State.FINISHED for action in result.actions):
            return math.inf
        if self.statistic == "queue":
            return mean([action.queue_s for action in result.actions]) or 0.0
        if self.statistic == "trajectory":
            return mean(per_trajectory(result.actions)) or 0.0
        if self.statistic == "makespan":
            end_s = max((action.ended_s for action in result.actions), default=result.start_s)
            return end_s - result.start_s
        return self._of_acts([action.act_s for action in result.actions])

    def _of_acts(self, acts_s: Sequence[float]) -> float:
        if not acts_s:
            return 0.0
        if self.statistic == "mean":
            return mean(acts_s) or 0.0
        if self.statistic == "max":
            return max(acts_s)
        return percentile(sorted(acts_s), float(self.statistic[1:]) / 100) or 0.0

    def strain(self, result: SimulationResult) -> float:
        """How much of the limit the figure takes: at most 1 meets the target."""
        return self.of(result) / self.limit_s


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that a pool has a number of: nodes, cores of a node, nodes of GPUs."""

    name: str
    guess: int
    """Where the search begins; a bad one costs simulations, not the answer."""
    largest: int


Size = tuple[int, ...]
"""One number per dimension, in their order."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search came to."""

    size: Size | None
    """The smallest that meets the target; None if the largest does not."""
    steady: bool
    """One more of each dimension meets the target as well: a pool that meets it by the luck of one
    placement is not steady."""
    tried: Mapping[Size, float]
    """The strain of every size that was evaluated, in the order of trying."""


def search(evaluate: Callable[[Size], float], dimensions: Sequence[Dimension]) -> SearchResult:
    """The smallest size whose strain (see `Target.strain`) is at most 1: the first dimension as
    small as it can be with all others at their largest, then the next with the first so fixed, and
    so on. No dimension of the answer can be lowered without missing the target.

    `evaluate` gives the strain of a size, which is taken to fall as the size grows, but for small
    disorder near the answer: both neighbours are looked at. Sizes are evaluated once each, in about
    2 log2(answer / guess) steps per dimension.
    """
    tried: dict[Size, float] = {}

    def meets(size: Size) -> bool:
        if size not in tried:
            tried[size] = evaluate(size)
        return tried[size] <= 1

    size = tuple(dimension.largest for dimension in dimensions)
    for index, dimension in enumerate(dimensions):

        def meets_at(number: int, index: int = index, size: Size = size) -> bool:
            return meets((*size[:index], number, *size[index + 1 :]))

        number = smallest(meets_at, dimension.guess, dimension.largest)
        if number is None:
            return SearchResult(None, False, tried)
        size = (*size[:index], number, *size[index + 1 :])
    larger = tuple(
        min(number + 1, dimension.largest)
        for number, dimension in zip(size, dimensions, strict=True)
    )
    return SearchResult(size, meets(larger), tried)


def smallest(meets: Callable[[int], bool], guess: int, largest: int) -> int | None:
    """The smallest number from 1 to `largest` that `meets`, None if `largest` does not.

    Doubles from `guess` until it meets, then halves the stretch between a miss and a meeting. The
    number before the answer was seen to miss; the one before that is tried as well, since a
    simulated queue is not quite monotone in the size of its pool.
    """
    misses, number = 0, max(1, min(guess, largest))
    while not meets(number):
        if number == largest:
            return None
        misses, number = number, min(2 * number, largest)
    while number - misses > 1:
        middle = (misses + number) // 2
        if meets(middle):
            number = middle
        else:
            misses = middle
    while number > 2 and meets(number - 2):
        number -= 2
        while number > 1 and meets(number - 1):
            number -= 1
    return number


@dataclass(frozen=True, slots=True)
class Misfit:
    """Some actions fit on no node of a pool, however many there are."""

    kind: str
    """Of resource: cores, gpus or memory."""
    needed: int
    """The most that one of them needs at least."""
    there: int
    """What a node has of it."""


def misfits(trajectories: Sequence[TraceTrajectory], shape: ClusterSpec) -> list[Misfit]:
    """One for each kind of which a node of `shape` has too little; all its nodes are alike."""
    there: dict[str, int] = {}
    if shape.nodes:
        there[CORES] = shape.nodes[0].cores
        if shape.nodes[0].memory_bytes is not None:
            there[MEMORY] = shape.nodes[0].memory_bytes
    if shape.gpus is not None:
        there[GPUS] = shape.gpus.per_node
    needed = dict.fromkeys(there, 0)
    for trajectory in trajectories:
        reserved_bytes = opened(trajectory).reserve.get(MEMORY, 0)
        if MEMORY in needed:
            needed[MEMORY] = max(needed[MEMORY], reserved_bytes)
        for action in trajectory.actions:
            if (kind := resource_kind(action)) in needed:
                needed[kind] = max(needed[kind], action.amounts.minimum)
    return [Misfit(kind, most, there[kind]) for kind, most in needed.items() if most > there[kind]]


def unqueued(trajectories: Sequence[TraceTrajectory], cores: int, gpus: int) -> SimulationResult:
    """How the trace would go if nothing ever waited and every action ran at its fastest amount on a
    node of so many `cores` and `gpus`: no pool of such nodes shows a smaller figure of any target.
    An action that does not fit such a node fails."""
    runs: list[ActionRun] = []
    for trajectory in trajectories:
        now_s = trajectory.start_s
        for index, action in enumerate(trajectory.actions):
            now_s += action.gap_s
            most = {EXEC: cores, SCORE: gpus}.get(action.runs_as, UNITS_MAX)
            run_s = _fastest_s(action, most)
            state = State.FAILED if run_s is None else State.FINISHED
            ended_s = now_s + (run_s or 0.0)
            runs.append(
                ActionRun(
                    f"{trajectory.id}/{index}",
                    trajectory.id,
                    trajectory.task,
                    action.kind,
                    resource_kind(action),
                    "",
                    now_s,
                    now_s,
                    ended_s,
                    state,
                )
            )
            now_s = ended_s
    return SimulationResult("unqueued", runs, {}, min(t.start_s for t in trajectories))


def _fastest_s(action: TraceAction, most: int) -> float | None:
    """With the best of its amounts up to `most`; None if there is none."""
    if action.amounts.minimum > most:
        return None
    if action.runs_as == CALL:
        run_s: float | None = action.duration_s
    else:
        profile = action.profile
        run_s = min(profile.run_s(m) or 0.0 for m in _candidates(action, most))
    return run_s if run_s is None or action.timeout_s is None else min(run_s, action.timeout_s)


def _candidates(action: TraceAction, most: int) -> list[int]:
    """Amounts among which the fastest is: E(m) m is linear between the entries of a table, and
    rises everywhere with a serial share, so of a range the ends and the entries suffice."""
    amounts = action.amounts
    if amounts.values:
        return [m for m in amounts.values if m <= most]
    entries = [m for m in action.elasticity if m in amounts and m <= most]
    return [amounts.minimum, min(amounts.maximum, most), *entries]


def waiting_shares(result: SimulationResult) -> dict[str, float]:
    """Resource -> its share of all the time that actions waited, largest first; empty if none did."""
    waited: dict[str, float] = {}
    for action in result.actions:
        waited[action.resource] = waited.get(action.resource, 0.0) + action.queue_s
    whole = math.fsum(waited.values())
    if whole <= 0:
        return {}
    ordered = sorted(waited.items(), key=lambda item: -item[1])
    return {resource: time_s / whole for resource, time_s in ordered if time_s > 0}
