"""From an action of a trace to what the scheduler is told of it, and to how long it really runs.

Policies know the durations of elastic actions only: `Action.profile` stays empty for all others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from ..model import CORES, EMPTY, QUOTA_PREFIX, Action, Amounts, Demand, Profile, Trajectory
from .trace import CALL, EXEC, SCORE, TraceAction, TraceTrajectory

GPUS = "gpus"
"""The kind of resource that a score takes: one of the cluster."""

OWN_GPUS_PREFIX = "gpus:"
"""Before a service's name: the kind of GPUs that no other service uses (`dedicated`)."""

NOISE_SIGMA_MAX = 5.0
"""Durations wrong by a factor of 150 at one sigma: beyond, nothing is left of a profile."""

MIB = 1 << 20


class Staged(NamedTuple):
    """One action, ready to be submitted in a simulation."""

    action: Action
    truth: Profile
    """How long it really runs, whatever the scheduler is told."""
    trace: TraceAction
    resource: str
    """Kind of its key resource; of a call, its quota."""

    def run_s(self, units: int) -> float:
        """How long all of it really runs with so many units from start to end. More of a quota
        makes a call no faster."""
        if self.trace.runs_as == CALL:
            return self.trace.duration_s
        run_s = self.truth.run_s(units)
        assert run_s is not None
        return run_s


def stage(
    trajectories: Sequence[TraceTrajectory],
    noise_sigma: float = 0.0,
    seed: int = 0,
    profiled: bool = True,
) -> list[list[Staged]]:
    """Per trajectory its actions, named TRAJECTORY/INDEX. With `noise_sigma`, the durations that
    policies are told are wrong by a factor exp(sigma N(0, 1)), drawn in the order of the trace from
    `seed`; unless `profiled`, they are told nothing, so that all has to be learned. Raises
    ValueError for a sigma beyond NOISE_SIGMA_MAX."""
    if not 0 <= noise_sigma <= NOISE_SIGMA_MAX:
        raise ValueError(f"noise is a sigma from 0 to {NOISE_SIGMA_MAX}, not {noise_sigma}")
    generator = random.Random(seed)
    demands: dict[tuple[str, Amounts, str, int], Demand] = {}
    staged: list[list[Staged]] = []
    for trajectory in trajectories:
        actions: list[Staged] = []
        for index, action in enumerate(trajectory.actions):
            key = (action.runs_as, action.amounts, action.quota, action.quota_amount)
            if key not in demands:
                demands[key] = _demand(action)
            factor = 1.0
            if noise_sigma and action.amounts.elastic:
                factor = math.exp(noise_sigma * generator.gauss(0.0, 1.0))
            actions.append(_stage(trajectory, index, action, demands[key], factor, profiled))
        staged.append(actions)
    return staged


def _stage(
    trajectory: TraceTrajectory,
    index: int,
    trace: TraceAction,
    demand: Demand,
    factor: float,
    profiled: bool,
) -> Staged:
    truth = trace.profile
    told = _NOTHING
    if profiled and trace.amounts.elastic:
        told = Profile(trace.duration_s * factor, truth.elasticity, truth.serial)
    action = Action(
        f"{trajectory.id}/{index}",
        trajectory.task,
        demand,
        trajectory.id,
        trace.runs_as,
        trace.priority,
        timeout_s=trace.timeout_s,
        profile=told,
        group=trajectory.group,
        step=trajectory.step,
        tenant=trajectory.tenant,
        signature=trace.signature or trace.service or _plain_kind(trace),
        # A service cannot move to other GPUs while it answers.
        malleable=trace.malleable and trace.amounts.elastic and trace.runs_as == EXEC,
        service=trace.service if trace.runs_as == SCORE else "",
    )
    return Staged(action, truth, trace, resource_kind(trace))


def _plain_kind(trace: TraceAction) -> str:
    """Tests and shells of a trace without signatures are told apart by their kind."""
    return trace.kind if trace.kind != trace.runs_as else ""


_NOTHING = Profile()


def resource_kind(action: TraceAction) -> str:
    """The kind of the resource whose amount matters most to it."""
    return {EXEC: CORES, SCORE: GPUS, CALL: QUOTA_PREFIX + action.quota}[action.runs_as]


def counts_gpus(kind: str) -> bool:
    """Whether a kind of resource is GPUs, shared or a service's own."""
    return kind == GPUS or kind.startswith(OWN_GPUS_PREFIX)


def _demand(action: TraceAction) -> Demand:
    kind = resource_kind(action)
    if action.runs_as == EXEC:
        return Demand(per_node={kind: action.amounts}, key=kind)
    if action.runs_as == SCORE:
        return Demand(cluster={kind: action.amounts}, key=kind)
    return Demand(cluster={kind: Amounts.exactly(action.quota_amount)})


def opened(trajectory: TraceTrajectory) -> Trajectory:
    """What the scheduler is told of it. Its sandbox is there at once: preparing costs nothing."""
    reserve_bytes = math.ceil(trajectory.memory_mib * MIB)
    return Trajectory(
        trajectory.id,
        trajectory.task,
        {"memory": reserve_bytes} if reserve_bytes else EMPTY,
        priority=trajectory.priority,
        group=trajectory.group,
        step=trajectory.step,
        tenant=trajectory.tenant,
    )
