"""What a reader of a simulation must know: what of the trace or the options changed nothing, or was
taken in a sense that is not obvious. Sentences alone; nothing is simulated here."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from ..model import Amounts, Capacity
from .actions import GPUS
from .cluster import ClusterSpec, QuotaSpec
from .dedicated import DEDICATED_POLICY
from .discipline import Discipline
from .fields import shown
from .policies import is_pod
from .trace import SCORE, TRACE_KEYS, TraceAction, TraceTrajectory

GPU_VIEW = "chunks"
"""The view that knows which GPUs are near each other; without it all are alike."""

SHOWN_MAX = 8
"""Amounts, services or keys that one note lists."""

NEAR = 0.8
"""How alike two keys are (difflib's ratio) where one may be meant by the other."""


def notes(
    trajectories: Sequence[TraceTrajectory],
    cluster: ClusterSpec,
    quotas: Sequence[QuotaSpec],
    shared: Sequence[Capacity],
) -> list[str]:
    """Of a trace on a cluster, whatever the policy."""
    said = [*_unread(trajectories), *_without_curve(trajectories)]
    if len(cluster.nodes) > 1 and not any(t.memory_mib for t in trajectories):
        said.append(
            "no action tells its memory, so every trajectory goes to the first node: placement is"
            " by free memory, ties to the first"
        )
    free = [q.name for q in quotas if q.concurrency is None and not q.windows]
    if free:
        said.append(f"quotas without a limit: {', '.join(sorted(free))}")
    if any(capacity.view == GPU_VIEW for capacity in shared):
        scores = [a for t in trajectories for a in t.actions if a.runs_as == SCORE]
        said += _gpu_notes(scores, cluster)
    return said


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


def ignored(policy: str, discipline: Discipline) -> list[str]:
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
