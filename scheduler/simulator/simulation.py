"""One simulation from a trace, a cluster and the name of a policy to its result.

Policies run through the scheduler itself (`replay`), pods are a model of their own (`pods`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..core import Scheduler
from ..events import NodeUp
from ..groups import Cohort, cohort_of
from ..model import (
    CLUSTER,
    CORES,
    MEMORY,
    QUOTA_PREFIX,
    UNITS_MAX,
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
from .notes import GPU_VIEW, ignored, notes
from .pods import Pods
from .podspec import parse_pod
from .policies import check_policy, is_pod
from .replay import Replay, SimulationError
from .result import ActionRun, GroupRun, SimulationResult
from .trace import CALL, TraceTrajectory

__all__ = ["GPU_VIEW", "QUOTA_VIEW", "SimulationError", "simulate"]

QUOTA_VIEW = "quota"
"""The view that counts periods; a quota with a concurrency alone is linear without it."""

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
        scheduler = _scheduler(policy, discipline, views)
        freedom = Freedom(unlimited=scheduler.policy.unlimited)
        joins = _joins(cluster, shared, scheduler.policy.unlimited)
        ended = Replay(scheduler, trajectories, staged, on_end).run(joins)
    starts = [trajectory.start_s for trajectory in trajectories]
    return SimulationResult(
        policy,
        ended,
        _capacities(cluster, own_capacities, quotas),
        min((t.start_s for t in trajectories if t.actions), default=0.0),
        lower_bounds(list(zip(starts, staged, strict=True)), ended, cluster, freedom),
        [*notes(trajectories, cluster, quotas, shared), *ignored(policy, discipline)],
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


def _scheduler(policy: str, discipline: Discipline, views: Mapping[str, ViewFactory]) -> Scheduler:
    served = SERVED_BY if policy == DEDICATED_POLICY else policy
    return Scheduler(views, served, discipline.order, discipline.weights, discipline.limits)


def _joins(cluster: ClusterSpec, shared: Sequence[Capacity], unlimited: bool) -> list[NodeUp]:
    """Without a limit a node has as many cores as can be counted."""
    joins: list[NodeUp] = []
    for name, cores, memory_bytes in cluster.nodes:
        counted = UNITS_MAX if unlimited else cores
        capacities = (
            Capacity(ResourceId(CORES, name), counted),
            Capacity(ResourceId(MEMORY, name), memory_bytes or UNNAMED_MEMORY_BYTES),
        )
        joins.append(NodeUp(name, EPOCH, capacities))
    if shared:
        joins.append(NodeUp(CLUSTER, EPOCH, tuple(shared)))
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
