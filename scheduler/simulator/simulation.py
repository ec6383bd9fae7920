"""One simulation from a trace, a cluster and the name of a policy to its result.

Policies run through the scheduler itself (`replay`), pods are a model of their own (`pods`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from ..core import Scheduler
from ..events import NodeUp
from ..groups import Cohort, cohort_of
from ..model import (
    CLUSTER,
    CORES,
    MEMORY,
    QUOTA_PREFIX,
    UNITS_MAX,
    Amounts,
    Capacity,
    ResourceId,
    State,
)
from ..policy import DEFAULT
from ..pool import ViewFactory
from .actions import GPUS, Staged, stage
from .bounds.chains import Freedom
from .bounds.lower import lower_bounds
from .cluster import UNNAMED_MEMORY_BYTES, ClusterSpec, GpuSpec, QuotaSpec
from .dedicated import DEDICATED_POLICY, SERVED_BY, on_own_gpus, own_gpus
from .discipline import Discipline
from .fields import shown
from .pods import Pods
from .podspec import parse_pod
from .policies import check_policy, is_pod
from .replay import Replay, SimulationError
from .result import ActionRun, GroupRun, SimulationResult
from .trace import CALL, SCORE, TRACE_KEYS, TraceAction, TraceTrajectory

__all__ = ["SimulationError", "simulate"]

QUOTA_VIEW = "quota"
"""The view that counts periods; a quota with a concurrency alone is linear without it."""

GPU_VIEW = "chunks"
"""The view that knows which GPUs are near each other; without it all are alike."""

SHOWN_MAX = 8
"""Amounts, services or keys that one note lists."""

NEAR = 0.8
"""How alike two keys are (difflib's ratio) where one may be meant by the other."""

EPOCH = 1
"""Nodes join once and stay."""

_USUAL = Discipline()


def simulate(
    trajectories: Sequence[TraceTrajectory],
    cluster: ClusterSpec,
    policy: str = DEFAULT,
    *,
    discipline: Discipline = _USUAL,
    views: Mapping[str, ViewFactory] | None = None,
    profile_noise: float = 0.0,
    profiled: bool = True,
    seed: int = 0,
    on_end: Callable[[], None] | None = None,
) -> SimulationResult:
    """Run the whole trace to its end. `discipline` says who is served first; pods know none.
    `views` are factories of resource views beside the linear one: "quota" for quotas with periods,
    "chunks" for GPUs that are not all alike, on which services have to be restored. Policies are
    the scheduler's, and the baselines `pod:...` and `dedicated`. With `profile_noise`, the
    durations that the policy is told are wrong by exp(sigma N(0, 1)) each; with `profiled` false it
    is told nothing, and has to learn. `on_end` is called after each end of an action.
    Raises ValueError for an unknown policy or a quota that no view counts, SimulationError if
    actions would wait for ever."""
    check_policy(policy, cluster.services)
    views = views or {}
    quotas = _quotas(trajectories, cluster)
    staged = stage(trajectories, profile_noise, seed, profiled)
    own_capacities = own_gpus(cluster.services) if policy == DEDICATED_POLICY else []
    if policy == DEDICATED_POLICY:
        staged = on_own_gpus(staged, cluster.services)
        cluster = replace(cluster, gpus=_whole(own_capacities))
    shared = own_capacities or _gpus(cluster, views)
    shared += [_quota_capacity(quota, views) for quota in quotas]
    ended: Sequence[ActionRun]
    if is_pod(policy):
        freedom = Freedom(shares=True)
        ended = Pods(parse_pod(policy), cluster, shared, views, on_end).run(trajectories, staged)
    else:
        served = SERVED_BY if policy == DEDICATED_POLICY else policy
        rules = discipline.order, discipline.weights, discipline.limits
        scheduler = Scheduler(views, served, *rules)
        freedom = Freedom(unlimited=scheduler.policy.unlimited)
        joins = _nodes(cluster, scheduler.policy.unlimited)
        if shared:
            joins.append(NodeUp(CLUSTER, EPOCH, tuple(shared)))
        ended = Replay(scheduler, trajectories, staged, on_end).run(joins)
    starts = [trajectory.start_s for trajectory in trajectories]
    return SimulationResult(
        policy,
        ended,
        _capacities(cluster, own_capacities, quotas),
        min((t.start_s for t in trajectories if t.actions), default=0.0),
        lower_bounds(list(zip(starts, staged, strict=True)), ended, cluster, freedom),
        [*_notes(trajectories, cluster, quotas, shared), *_ignored(policy, discipline)],
        "" if is_pod(policy) else discipline.order,
        _groups(trajectories, staged, ended),
    )


def _groups(
    trajectories: Sequence[TraceTrajectory],
    staged: Sequence[Sequence[Staged]],
    ended: Sequence[ActionRun],
) -> list[GroupRun]:
    """Each group, else step, in the order of the trace: what the order `group` looks at."""
    cohorts: dict[str, Cohort] = {}
    starts: dict[Cohort, float] = {}
    for trajectory, actions in zip(trajectories, staged, strict=True):
        cohort = cohort_of(actions[0].action) if actions else None
        if cohort is not None:
            cohorts[trajectory.id] = cohort
            starts[cohort] = min(trajectory.start_s, starts.get(cohort, trajectory.start_s))
    ends, failed = dict.fromkeys(starts, 0.0), set[Cohort]()
    for run in ended if cohorts else ():
        if (cohort := cohorts.get(run.trajectory)) is not None:
            ends[cohort] = max(ends[cohort], run.ended_s)
            if run.state is not State.FINISHED:
                failed.add(cohort)
    return [
        GroupRun(*cohort, start_s, ends[cohort], cohort not in failed)
        for cohort, start_s in starts.items()
    ]


def _nodes(cluster: ClusterSpec, unlimited: bool) -> list[NodeUp]:
    """Without a limit a node has as many cores as can be counted."""
    joins: list[NodeUp] = []
    for name, cores, memory_bytes in cluster.nodes:
        counted = UNITS_MAX if unlimited else cores
        capacities = (
            Capacity(ResourceId(CORES, name), counted),
            Capacity(ResourceId(MEMORY, name), memory_bytes or UNNAMED_MEMORY_BYTES),
        )
        joins.append(NodeUp(name, EPOCH, capacities))
    return joins


def _quotas(trajectories: Sequence[TraceTrajectory], cluster: ClusterSpec) -> list[QuotaSpec]:
    """Those of the cluster, and without a limit those that only the trace names."""
    known = {quota.name: quota for quota in cluster.quotas}
    for trajectory in trajectories:
        for action in trajectory.actions:
            if action.runs_as == CALL and action.quota not in known:
                known[action.quota] = QuotaSpec(action.quota)
    return list(known.values())


def _gpus(cluster: ClusterSpec, views: Mapping[str, ViewFactory]) -> list[Capacity]:
    """The GPUs that all services share, if there are any."""
    gpus = cluster.gpus
    if gpus is None:
        return []
    view = GPU_VIEW if GPU_VIEW in views else "linear"
    restores_s = {name: service.restore_s for name, service in cluster.services.items()}
    rooms = {name: service.room for name, service in cluster.services.items() if service.room}
    shape = {"nodes": gpus.nodes, "per_node": gpus.per_node, "restore_s": restores_s, "room": rooms}
    return [Capacity(ResourceId(GPUS), gpus.total, view, shape)]


def _whole(capacities: Sequence[Capacity]) -> GpuSpec:
    """All GPUs of these together."""
    return GpuSpec(1, sum(capacity.total for capacity in capacities))


def _quota_capacity(quota: QuotaSpec, views: Mapping[str, ViewFactory]) -> Capacity:
    resource = ResourceId(QUOTA_PREFIX + quota.name)
    if not quota.windows:
        return Capacity(resource, quota.concurrency or UNITS_MAX)
    if QUOTA_VIEW not in views:
        raise ValueError(f"quota {quota.name}: no view was given that counts its periods")
    total = quota.concurrency or min(rate for rate, _ in quota.windows)
    limits = {"concurrency": quota.concurrency, "windows": quota.windows}
    return Capacity(resource, total, QUOTA_VIEW, limits)


def _capacities(
    cluster: ClusterSpec, own_gpus: Sequence[Capacity], quotas: Sequence[QuotaSpec]
) -> dict[tuple[str, str], int]:
    """What there really is, for utilisation: limits that are not there are left out."""
    found: dict[tuple[str, str], int] = {}
    for name, cores, memory_bytes in cluster.nodes:
        found[CORES, name] = cores
        if memory_bytes is not None:
            found[MEMORY, name] = memory_bytes
    for capacity in own_gpus:
        found[capacity.resource.kind, CLUSTER] = capacity.total
    if cluster.gpus is not None and not own_gpus:
        found[GPUS, CLUSTER] = cluster.gpus.total
    for quota in quotas:
        if quota.concurrency is not None:
            found[QUOTA_PREFIX + quota.name, CLUSTER] = quota.concurrency
    return found


def _notes(
    trajectories: Sequence[TraceTrajectory],
    cluster: ClusterSpec,
    quotas: Sequence[QuotaSpec],
    shared: Sequence[Capacity],
) -> list[str]:
    notes = [*_unread(trajectories), *_without_curve(trajectories)]
    if len(cluster.nodes) > 1 and not any(t.memory_mib for t in trajectories):
        notes.append(
            "no action tells its memory, so every trajectory goes to the first node: placement is"
            " by free memory, ties to the first"
        )
    free = [q.name for q in quotas if q.concurrency is None and not q.windows]
    if free:
        notes.append(f"quotas without a limit: {', '.join(sorted(free))}")
    if any(capacity.view == GPU_VIEW for capacity in shared):
        scores = [a for t in trajectories for a in t.actions if a.runs_as == SCORE]
        notes += _gpu_notes(scores, cluster)
    return notes


def _unread(trajectories: Sequence[TraceTrajectory]) -> list[str]:
    """Keys of the trace that change nothing, the likely mistakes among them with what was meant."""
    lines = sum(bool(trajectory.unread) for trajectory in trajectories)
    keys = sorted({key for trajectory in trajectories for key in trajectory.unread})
    if not keys:
        return []
    said = []
    for key in keys[:SHOWN_MAX]:
        near = get_close_matches(key, TRACE_KEYS - {key}, 1, NEAR)
        said.append(f"{shown(key)} ({near[0]}?)" if near and key not in TRACE_KEYS else shown(key))
    more = ", ..." if len(keys) > SHOWN_MAX else ""
    where = "1 line" if lines == 1 else f"{lines:,} lines"
    return [f"keys that change nothing, in {where} of the trace: {', '.join(said)}{more}"]


def _without_curve(trajectories: Sequence[TraceTrajectory]) -> list[str]:
    number = sum(
        action.amounts.elastic and action.serial is None and not action.elasticity
        for trajectory in trajectories
        for action in trajectory.actions
    )
    if not number:
        return []
    said = "actions that have several amounts and neither serial nor elasticity"
    meant = "they run as if they scaled perfectly, and policies know it, as no server would"
    return [f"{said}: {number:,}; {meant}"]


def _ignored(policy: str, discipline: Discipline) -> list[str]:
    """What of the discipline the policy does not know."""
    if is_pod(policy) and not discipline.usual:
        return [f"{policy}: pods are served as they come, without an order or limits"]
    if policy == DEDICATED_POLICY and any(GPUS in kinds for kinds in discipline.limits.values()):
        return [f"{policy}: limits of {GPUS} do not hold where services have their own"]
    return []


def _gpu_notes(scores: Sequence[TraceAction], cluster: ClusterSpec) -> list[str]:
    """What is not as a reader of the trace would think: rounded amounts, services in no time."""
    notes: list[str] = []
    odd = sorted({n for amounts in {a.amounts for a in scores} for n in _odd(amounts)})
    if odd:
        listed = ", ".join(map(str, odd[:SHOWN_MAX])) + (", ..." if len(odd) > SHOWN_MAX else "")
        notes.append(
            f"a grant of GPUs is one aligned chunk: {listed} GPUs keep the next power of two"
        )
    unknown = sorted({a.service or "(no name)" for a in scores} - cluster.services.keys())
    if unknown:
        listed = ", ".join(unknown[:SHOWN_MAX]) + (", ..." if len(unknown) > SHOWN_MAX else "")
        notes.append(
            f"services that are restored in no time, since nothing says how long: {listed}"
        )
    return notes


def _odd(amounts: Amounts) -> list[int]:
    """Those that are no power of two."""
    return [amount for amount in amounts if amount & (amount - 1)]
