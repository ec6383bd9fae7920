"""The figures of a simulation: means, percentiles, utilisation, bounds; as one JSON object.

All figures are over the actions that have a result. Those that were refused or otherwise ended
without one are left out of every mean and counted in `states`; one that was cut at its timeout has
a result.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..model import CORES, State
from .result import ActionRun, GroupRun, SimulationResult

DIGITS = 9
"""Of the figures as they are handed out: nanoseconds; what is beyond is rounding."""

BOUND_MARGIN = 1e-9
"""By which bounds are stated too low: what sums of floats may be off."""


def summarise(result: SimulationResult) -> dict[str, Any]:
    """`policy mean_act_s p50_act_s p95_act_s mean_queue_s traj_act_s makespan_s core_utilisation
    lower_bound_s` in this order, then more. Figures without anything to be computed from are None.

    `traj_act_s`: the sum of the ACTs of a trajectory, mean over those that have a result.
    `makespan_s`: from the first start of a trajectory to the last end of an action.
    `core_utilisation`: granted core-seconds over cores times makespan; more than 1 only where a
    policy grants more than there is (`unlimited`).
    `lower_bound_s`: the best of `lower_bounds_s`, each below the mean ACT of any policy.
    `by_task`, `by_tenant` are there where there are several of them (the empty tenant is all tasks
    that have none), `groups` where there are groups or steps."""
    counted = [run for run in result.actions if run.state is State.FINISHED]
    acts = sorted(run.act_s for run in counted)
    makespan_s = max((run.ended_s for run in counted), default=result.start_s) - result.start_s
    bounds_s = {name: _below(bound_s) for name, bound_s in result.lower_bounds_s.items()}
    return {
        "policy": result.policy,
        "mean_act_s": mean(acts),
        "p50_act_s": percentile(acts, 0.50),
        "p95_act_s": percentile(acts, 0.95),
        "mean_queue_s": mean([run.queue_s for run in counted]),
        "traj_act_s": mean(per_trajectory(counted)),
        "makespan_s": _rounded(makespan_s) if counted else None,
        "core_utilisation": _utilisation(result, makespan_s),
        "lower_bound_s": max(bounds_s.values(), default=None),
        "lower_bounds_s": bounds_s,
        "p99_act_s": percentile(acts, 0.99),
        "max_act_s": _rounded(acts[-1] if acts else None),
        "actions": len(result.actions),
        "trajectories": len({run.trajectory for run in result.actions}),
        "states": dict(sorted(Counter(str(run.state) for run in result.actions).items())),
        "timed_out": sum(run.timed_out for run in counted),
        "mean_prepare_s": mean([run.prepare_s for run in counted]),
        "mean_run_s": mean([run.run_s for run in counted]),
        "by_kind": _by_kind(counted),
        "order": result.order or None,
        **_by_owner(counted),
        **_groups(result.groups),
        "reasons": _reasons(result.actions),
        "notes": list(result.notes),
    }


def per_trajectory(runs: Iterable[ActionRun]) -> list[float]:
    """The sum of the ACTs of each trajectory, in seconds."""
    sums_s: defaultdict[str, float] = defaultdict(float)
    for run in runs:
        sums_s[run.trajectory] += run.act_s
    return list(sums_s.values())


def _by_kind(counted: Sequence[ActionRun]) -> dict[str, dict[str, Any]]:
    """The same for the actions of each kind, as the trace names it: where the time goes."""
    kinds: defaultdict[str, list[ActionRun]] = defaultdict(list)
    for run in counted:
        kinds[run.kind].append(run)
    return {
        kind: {
            "actions": len(runs),
            "mean_act_s": mean([run.act_s for run in runs]),
            "p95_act_s": percentile(sorted(run.act_s for run in runs), 0.95),
            "mean_queue_s": mean([run.queue_s for run in runs]),
            "mean_prepare_s": mean([run.prepare_s for run in runs]),
            "mean_run_s": mean([run.run_s for run in runs]),
            "mean_units": _mean_units(runs),
        }
        for kind, runs in sorted(kinds.items())
    }


def _by_owner(counted: Sequence[ActionRun]) -> dict[str, dict[str, Any]]:
    """Per task and per tenant, where there are several."""
    tasks: defaultdict[str, list[ActionRun]] = defaultdict(list)
    tenants: defaultdict[str, list[ActionRun]] = defaultdict(list)
    for run in counted:
        tasks[run.task].append(run)
        tenants[run.tenant].append(run)
    named = {"by_task": tasks, "by_tenant": tenants}
    return {name: _owners(owned) for name, owned in named.items() if len(owned) > 1}


def _owners(owned: Mapping[str, Sequence[ActionRun]]) -> dict[str, Any]:
    """`core_share`: of the core-seconds that all of these held; `core_share_together`: the same
    over the time in which all of them had begun and none was done. None where nobody held any."""
    begun_s = max(min(run.submitted_s for run in runs) for runs in owned.values())
    done_s = min(max(run.ended_s for run in runs) for runs in owned.values())
    whole = {name: _core_seconds(runs, -math.inf, math.inf) for name, runs in owned.items()}
    together = {name: _core_seconds(runs, begun_s, done_s) for name, runs in owned.items()}
    return {
        name: {
            "actions": len(runs),
            "mean_act_s": mean([run.act_s for run in runs]),
            "p95_act_s": percentile(sorted(run.act_s for run in runs), 0.95),
            "mean_queue_s": mean([run.queue_s for run in runs]),
            "core_share": _part(name, whole),
            "core_share_together": _part(name, together),
        }
        for name, runs in sorted(owned.items())
    }


def _core_seconds(runs: Iterable[ActionRun], from_s: float, until_s: float) -> float:
    """Held within this time."""
    return math.fsum(
        hold.units * max(0.0, min(hold.end_s, until_s) - max(hold.start_s, from_s))
        for run in runs
        if run.resource == CORES
        for hold in run.holds
    )


def _part(name: str, amounts: Mapping[str, float]) -> float | None:
    whole = math.fsum(amounts.values())
    return _rounded(amounts[name] / whole) if whole else None


def _groups(groups: Sequence[GroupRun]) -> dict[str, dict[str, Any]]:
    """How long groups take, each from the first start of its trajectories to its last end. One with
    an action without a result is not complete, and in no mean."""
    if not groups:
        return {}
    lasted_s = sorted(group.end_s - group.start_s for group in groups if group.complete)
    return {
        "groups": {
            "complete": len(lasted_s),
            "incomplete": len(groups) - len(lasted_s),
            "mean_s": mean(lasted_s),
            "p95_s": percentile(lasted_s, 0.95),
            "max_s": _rounded(lasted_s[-1] if lasted_s else None),
        }
    }


def _mean_units(runs: Sequence[ActionRun]) -> float | None:
    """Of the key resource, over the time that it was held."""
    held_s = math.fsum(hold.end_s - hold.start_s for run in runs for hold in run.holds)
    return _rounded(_unit_seconds(runs) / held_s) if held_s else None


def _unit_seconds(runs: Iterable[ActionRun]) -> float:
    return math.fsum(hold.units * (hold.end_s - hold.start_s) for run in runs for hold in run.holds)


def _utilisation(result: SimulationResult, makespan_s: float) -> float | None:
    cores = sum(n for (kind, _), n in result.capacities.items() if kind == CORES)
    if not cores or makespan_s <= 0:
        return None
    granted = _unit_seconds(run for run in result.actions if run.resource == CORES)
    return _rounded(granted / cores / makespan_s)


def _reasons(actions: Iterable[ActionRun]) -> dict[str, int]:
    """Why actions ended without a result, the commonest first."""
    return dict(Counter(run.reason for run in actions if run.reason).most_common())


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return _rounded(math.fsum(values) / len(values)) if values else None


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Of sorted values, interpolated linearly between the two nearest ranks (numpy's default, type
    7 of Hyndman and Fan, The American Statistician 50, 1996). None of nothing."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return _rounded(ordered[below] + (place - below) * (ordered[above] - ordered[below]))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _below(bound_s: float) -> float:
    """A bound that is reached must not be above a mean of the same runs by rounding alone."""
    scale = float(10**DIGITS)
    return math.floor(bound_s * (1 - BOUND_MARGIN) * scale) / scale
