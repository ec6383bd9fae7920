"""The node's side: which leases and sandboxes one node really has, whatever the scheduler believes.

A node takes units for a lease when the grant arrives, and has them back when nothing of the action
runs any more; the checker of its own is that it never has to hold more than it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...model import CLUSTER, Action, Capacity, LeaseRecord, ResourceId
from .booked import Violation


@dataclass(slots=True, eq=False)
class SiteLease:
    """A grant made real. `over` once it has its end, or is being killed."""

    action: Action
    token: int
    amounts: Mapping[ResourceId, int]
    started_s: float = 0.0
    over: bool = False
    killed: bool = False


@dataclass(slots=True)
class Site:
    """One node, or (CLUSTER) what belongs to none. `epoch` grows whenever its connection breaks, so
    that commands sent before are dropped."""

    name: str
    capacities: tuple[Capacity, ...]
    epoch: int = 0
    up: bool = False
    """Connected, and running."""
    told_epoch: int | None = None
    """With which the scheduler believes that it is up; None if it does not."""
    leases: dict[int, SiteLease] = field(default_factory=dict)
    sandboxes: dict[str, int] = field(default_factory=dict)

    def take(self, lease: SiteLease) -> None:
        """Raises Violation if that is more than there is."""
        self.leases[lease.token] = lease
        self._check(lease)

    def resize(self, lease: SiteLease, amounts: Mapping[ResourceId, int]) -> None:
        """Alike."""
        lease.amounts = amounts
        self._check(lease)

    def break_off(self) -> None:
        self.epoch += 1
        self.up = False

    def crash(self) -> None:
        """All that it had is gone."""
        self.leases, self.sandboxes = {}, {}

    def records(self) -> tuple[LeaseRecord, ...]:
        """What it tells when it joins."""
        return tuple(
            LeaseRecord(lease.action, token, self.name, lease.amounts)
            for token, lease in sorted(self.leases.items())
        )

    def _check(self, lease: SiteLease) -> None:
        for capacity in self.capacities:
            resource = capacity.resource
            if self.name == CLUSTER or resource not in lease.amounts:
                continue
            held = sum(other.amounts.get(resource, 0) for other in self.leases.values())
            if held > capacity.total:
                raise Violation(
                    "node", f"{resource}: {held} are held, {capacity.total} there, with {lease}"
                )
