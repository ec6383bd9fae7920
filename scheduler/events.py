"""What happened: the only input of the scheduler. Serialisable data with ids, tokens and epochs.

A node's epoch grows each time it joins; an event of an older epoch, or with a token that is not the
current one, is dropped and counted (`Scheduler.stale`), never acted upon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .model import Action, Capacity, EndReason, LeaseRecord, ResourceId, Trajectory


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A node (or, with node CLUSTER, the cluster's own resources) joined or came back, with what
    it has and with the leases that it still holds. After a restart of the server it comes before
    the trajectories of these leases are opened again: they are placed where their leases are."""

    node: str
    epoch: int
    capacities: tuple[Capacity, ...]
    leases: tuple[LeaseRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeDown:
    """A node is gone: its running actions end LOST, its trajectories are lost."""

    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TrajectoryOpened:
    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class SandboxReady:
    """The sandbox that `Place` asked for runs."""

    trajectory: str
    token: int


@dataclass(frozen=True, slots=True)
class SandboxLost:
    """The sandbox could not be started, or died. Its waiting and running actions fail."""

    trajectory: str
    token: int
    reason: EndReason
    message: str


@dataclass(frozen=True, slots=True)
class TrajectoryClosed:
    """No more actions: waiting ones are cancelled, running ones killed."""

    trajectory: str


@dataclass(frozen=True, slots=True)
class TrajectoryReleased:
    """Its sandbox is confirmed gone; only now its reservation is free."""

    trajectory: str
    token: int


@dataclass(frozen=True, slots=True)
class Submitted:
    action: Action


@dataclass(frozen=True, slots=True)
class CancelRequested:
    action: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class CancelAllRequested:
    """Early termination: what is left of a trajectory, a group or a step ends at once. Nothing of
    it is granted in between, and the queues are passed over once. Unknown and ended ones are
    dropped."""

    actions: tuple[str, ...]
    message: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """The grant was made real and the action runs from now on."""

    action: str
    token: int


@dataclass(frozen=True, slots=True)
class ActionEnded:
    """The action has an end (a result, or a failure to run it). Its units stay taken until
    `LeaseReleased`. `failed` tells whether Tangram failed at it. `run_s` is how long it ran, on the
    clock of who ran it; None if its length says nothing of others like it (it timed out, was
    killed, never ran)."""

    action: str
    token: int
    failed: bool = False
    run_s: float | None = None


@dataclass(frozen=True, slots=True)
class LeaseReleased:
    """Confirmed: nothing of the action uses its units any more."""

    action: str
    token: int


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The lease is gone without an end of its action: the action fails as LOST."""

    action: str
    token: int
    message: str


@dataclass(frozen=True, slots=True)
class ResizeRequested:
    """Somebody wants a running action to have other amounts; answered by Resize if they fit."""

    action: str
    amounts: Mapping[ResourceId, int]


@dataclass(frozen=True, slots=True)
class Resized:
    """Confirmed: the lease now has these amounts (as asked for, or as before). `change` is that of
    the Resize that this answers: the answer to an earlier one, come twice, changes nothing."""

    action: str
    token: int
    amounts: Mapping[ResourceId, int]
    change: int


@dataclass(frozen=True, slots=True)
class QuotaClosed:
    """A provider said Retry-After: nothing of this quota is granted before `until`."""

    resource: ResourceId
    until: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: sent at `next_wakeup()`."""


Event = (
    NodeUp
    | NodeDown
    | TrajectoryOpened
    | SandboxReady
    | SandboxLost
    | TrajectoryClosed
    | TrajectoryReleased
    | Submitted
    | CancelRequested
    | CancelAllRequested
    | Started
    | ActionEnded
    | LeaseReleased
    | LeaseLost
    | ResizeRequested
    | Resized
    | QuotaClosed
    | Tick
)
