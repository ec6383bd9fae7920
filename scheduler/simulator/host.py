"""One simulation from a trace, a cluster and the name of a policy to its result.

Policies run through the scheduler itself (`loop`), pods are a model of their own (`pods`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core import Scheduler
from ..events import NodeUp
from ..model import CLUSTER, CORES, MEMORY, QUOTA_PREFIX, UNITS_MAX, Capacity, ResourceId
from ..policy import DEFAULT
from ..pool import ViewFactory
from .actions import GPUS, Planner
from .bounds import Freedom, lower_bounds
from .cluster import UNNAMED_MEMORY_BYTES, ClusterSpec, QuotaSpec
from .loop import Host, SimulationError
from .pods import Pods
from .podspec import POD_POLICY, parse_pod
from .result import ActionRun, SimulationResult
from .trace import CALL, TraceTrajectory

__all__ = ["SimulationError", "simulate"]

QUOTA_VIEW = "quota"
"""The view that counts periods; a quota with a concurrency alone is linear without it."""

GPU_VIEW = "chunks"
"""The view that knows which GPUs are near each other; without it all are alike."""

EPOCH = 1
"""Nodes join once and stay."""


def simulate(
    trajectories: Sequence[TraceTrajectory],
    cluster: ClusterSpec,
    policy: str = DEFAULT,
    *,
    views: Mapping[str, ViewFactory] | None = None,
    profile_noise: float = 0.0,
    seed: int = 0,
) -> SimulationResult:
    """Run the whole trace to its end. `views` are factories of resource views beside the linear
    one: "quota" for quotas with periods, "chunks" for GPUs that are not all
    alike. With
    `profile_noise`, the durations that the policy is told are wrong by exp(sigma N(0, 1)) each.
    Raises ValueError for an unknown policy or a quota that no view counts, SimulationError if
    actions would wait for ever."""
    views = views or {}
    quotas = _quotas(trajectories, cluster)
    shared = _shared(cluster, quotas, views)
    planner = Planner(profile_noise, seed)
    plans = planner.plan(trajectories)
    ended: Sequence[ActionRun]
    if policy.partition(":")[0] == POD_POLICY:
        freedom = Freedom(shares=True)
        ended = Pods(parse_pod(policy), cluster, shared, views).run(trajectories, plans)
    else:
        scheduler = Scheduler(views, policy)
        freedom = Freedom(unlimited=scheduler.policy.unlimited)
        joins = _nodes(cluster, scheduler.policy.unlimited)
        if shared:
            joins.append(NodeUp(CLUSTER, EPOCH, tuple(shared)))
        ended = Host(scheduler, trajectories, plans).run(joins)
    starts = [trajectory.start_s for trajectory in trajectories]
    return SimulationResult(
        policy,
        ended,
        _capacities(cluster, quotas),
        min((t.start_s for t in trajectories if t.actions), default=0.0),
        lower_bounds(list(zip(starts, plans, strict=True)), ended, cluster, freedom),
        _notes(trajectories, cluster, quotas),
    )


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


def _shared(
    cluster: ClusterSpec, quotas: Sequence[QuotaSpec], views: Mapping[str, ViewFactory]
) -> list[Capacity]:
    """What belongs to no node: GPUs and quotas."""
    capacities = [_quota_capacity(quota, views) for quota in quotas]
    if (gpus := cluster.gpus) is not None:
        view = GPU_VIEW if GPU_VIEW in views else "linear"
        shape = {"nodes": gpus.nodes, "per_node": gpus.per_node}
        capacities.append(Capacity(ResourceId(GPUS), gpus.total, view, shape))
    return capacities


def _quota_capacity(quota: QuotaSpec, views: Mapping[str, ViewFactory]) -> Capacity:
    resource = ResourceId(QUOTA_PREFIX + quota.name)
    if not quota.windows:
        return Capacity(resource, quota.concurrency or UNITS_MAX)
    if QUOTA_VIEW not in views:
        raise ValueError(f"quota {quota.name}: no view was given that counts its periods")
    total = quota.concurrency or min(rate for rate, _ in quota.windows)
    limits = {"concurrency": quota.concurrency, "windows": quota.windows}
    return Capacity(resource, total, QUOTA_VIEW, limits)


def _capacities(cluster: ClusterSpec, quotas: Sequence[QuotaSpec]) -> dict[tuple[str, str], int]:
    """What there really is, for utilisation: limits that are not there are left out."""
    found: dict[tuple[str, str], int] = {}
    for name, cores, memory_bytes in cluster.nodes:
        found[CORES, name] = cores
        if memory_bytes is not None:
            found[MEMORY, name] = memory_bytes
    if cluster.gpus is not None:
        found[GPUS, CLUSTER] = cluster.gpus.total
    for quota in quotas:
        if quota.concurrency is not None:
            found[QUOTA_PREFIX + quota.name, CLUSTER] = quota.concurrency
    return found


def _notes(
    trajectories: Sequence[TraceTrajectory], cluster: ClusterSpec, quotas: Sequence[QuotaSpec]
) -> list[str]:
    notes: list[str] = []
    if len(cluster.nodes) > 1 and not any(t.memory_mib for t in trajectories):
        notes.append(
            "no action tells its memory, so every trajectory goes to the first node: placement is"
            " by free memory, ties to the first"
        )
    free = [q.name for q in quotas if q.concurrency is None and not q.windows]
    if free:
        notes.append(f"quotas without a limit: {', '.join(sorted(free))}")
    return notes
