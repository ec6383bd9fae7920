"""What the dispatcher takes on: limits of the queue, and what an action inherits.

Refusals are errors for the client, at once; nothing here waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import AlreadyExists, Infeasible, InvalidRequest, Overloaded
from ..managers.sizes import format_size
from ..scheduler import Scheduler
from ..scheduler.model import MEMORY
from .records import ActionRecord, ActionRequest, TrajectoryRecord, TrajectoryRequest

OVERLOAD_RETRY_S = 1.0
"""What a refused client is told to wait; a queue of second-long actions moves in that time."""


@dataclass(frozen=True, slots=True)
class DispatcherLimits:
    """What one dispatcher takes on. Bytes count the requests that have not ended."""

    max_actions: int = 100_000
    max_bytes: int = 1 << 30
    max_trajectories: int = 100_000
    retain_s: float = 3600.0
    retain_actions: int = 50_000
    output_memory_bytes: int = 256 << 20
    detach_grace_s: float = 10.0
    lease_s: float = 60.0
    max_snapshots: int = 256
    max_snapshot_bytes: int = 100 << 30
    """The last two are of one task."""


class QueueBound:
    """Counts the actions that have not ended, and the bytes of their requests."""

    def __init__(self, max_actions: int, max_bytes: int) -> None:
        self._max_actions = max_actions
        self._max_bytes = max_bytes
        self._actions = 0
        self._bytes = 0

    def enter(self, request: ActionRequest) -> None:
        """Raises Overloaded if it is full."""
        full = ""
        if self._actions >= self._max_actions:
            full = f"{self._max_actions} actions"
        elif self._bytes + request.size > self._max_bytes:
            full = f"{format_size(self._max_bytes)} of requests"
        if full:
            raise Overloaded(
                f"the queue is full with {full}; try again later",
                retry_after=OVERLOAD_RETRY_S,
                action_id=request.action.id,
            )
        self._actions += 1
        self._bytes += request.size

    def leave(self, request: ActionRequest) -> None:
        self._actions -= 1
        self._bytes -= request.size


def inherit(request: ActionRequest, trajectory: TrajectoryRecord) -> ActionRequest:
    """An action belongs to its trajectory's task, has its group and step unless it names others,
    and its labels under those of its own. Raises InvalidRequest for another task."""
    action, owner = request.action, trajectory.request.trajectory
    if action.task != owner.task:
        raise InvalidRequest(
            f"trajectory {owner.id!r} belongs to task {owner.task!r}, not {action.task!r}",
            field="task",
        )
    group = action.group or owner.group
    step = owner.step if action.step is None else action.step
    labels = {**trajectory.request.labels, **request.labels}
    if (group, step, labels) == (action.group, action.step, request.labels):
        return request  # As a rule: the SDK names them all.
    return replace(request, action=replace(action, group=group, step=step), labels=labels)


def same_body(known: ActionRecord, request: ActionRequest) -> ActionRecord:
    """The known action for the same id and body again. Raises AlreadyExists for another body."""
    if known.request.fingerprint != request.fingerprint:
        raise AlreadyExists(
            f"action {known.id!r} was submitted before with another body; use another id",
            field="id",
            action_id=known.id,
        )
    return known


def check_placeable(scheduler: Scheduler, request: TrajectoryRequest) -> None:
    """Raises Infeasible if no node could ever hold the trajectory."""
    wanted, largest = request.trajectory.reserve.get(MEMORY, 0), scheduler.largest(MEMORY)
    if wanted > largest:
        raise Infeasible(
            f"memory: {format_size(wanted)} asked for, the largest node has "
            f"{format_size(largest)}; ask for less",
            field="memory",
        )
