"""What the scheduler remembers of one action (`Entry`) and of one trajectory (`Seat`).

Mutable bookkeeping of the scheduler alone; hosts see events, decisions and explanations. The only
behaviour here keeps the history of an action's waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from .choices import Choices
from .model import (
    CLUSTER,
    Action,
    EndReason,
    Profile,
    ResourceId,
    State,
    Trajectory,
    WaitReason,
    WaitSpan,
)
from .pattern import Source
from .stretches import Stretches

Key: TypeAlias = tuple[float, int, str]
"""Service order: (the order's rank, arrival number, id). Arrival numbers are unique."""

Arrival: TypeAlias = tuple[int, str]
"""The part of a key that never changes: (arrival number, id)."""

Rank: TypeAlias = tuple[float, float, int, str]
"""Order among actions whose amount is chosen: as the policy says, then as the key."""

FIRST = -math.inf
"""The rank of what was overtaken often enough: it goes before everybody else."""

SPANS_MAX = 256
"""Waits remembered of one action. Beyond, one from the middle is dropped: the first tell of its
gates, the last why it still waits."""

EXEC = "exec"
"""The kind of action that runs in its trajectory's sandbox and takes one of its slots."""


class Phase(Enum):
    """Where a trajectory stands."""

    UNPLACED = auto()
    STARTING = auto()
    READY = auto()
    OVER = auto()


@dataclass(slots=True, eq=False)
class Seat:
    """One trajectory: where it is, who waits at its gate and who holds one of its slots."""

    trajectory: Trajectory
    key: Key
    opened: float = 0.0
    """When it was opened (s, the host's clock)."""
    phase: Phase = Phase.UNPLACED
    node: str | None = None
    token: int = 0
    """Of its placement; 0 while it holds nothing."""
    actions: dict[str, Entry] = field(default_factory=dict)
    """All that are not settled, in the order of submission."""
    line: dict[str, Entry] = field(default_factory=dict)
    """Those of them that wait at the gate: not yet in any resource's queue."""
    admitted: dict[str, Entry] = field(default_factory=dict)
    """Those of them that hold one of its slots, from the gate until their lease is released."""
    over: tuple[State, EndReason, str] | None = None
    """How its actions end once it is closed or lost."""


@dataclass(slots=True, eq=False)
class Entry:
    """One action."""

    action: Action
    key: Key
    seat: Seat | None
    submitted: float
    id: str = field(init=False)
    state: State = State.WAITING
    needs: Mapping[ResourceId, int] = field(default_factory=dict)
    """Minimum amounts, bound to a node; empty until it is in a queue for the first time."""
    queued_at: ResourceId | None = None
    """The one resource in whose queue it stands: the last that it was found short of."""
    limited_at: ResourceId | None = None
    """The one resource of which its task holds as much as it may: it waits for that outside the
    queues."""
    reason: WaitReason | None = None
    """Why it waits; None if it does not."""
    resource: ResourceId | None = None
    """What it waits for, if that is one resource."""
    waits_since: float = 0.0
    """For that reason."""
    waited: list[WaitSpan] = field(default_factory=list)
    """What it waited for before."""
    tally: Tally | None = None
    """Where it is counted while it waits, with `tallied` units."""
    tallied: int = 0
    profile: Profile = field(default_factory=Profile)
    """What is believed of its duration: as given, else as learned."""
    source: Source = Source.NOTHING
    """Of that duration."""
    choices: Choices | None = None
    """Amounts of its key resource to choose from; None if its amount is settled."""
    rank: Rank = (0.0, 0.0, 0, "")
    patient_until_s: float = 0.0
    """When it has waited so long that its rank no longer counts."""
    tier: float = 0.0
    """Coarser than the rank in its key: within one tier a policy may serve the shortest first."""
    token: int = 0
    """Of its grant; 0 while it holds nothing."""
    node: str = CLUSTER
    key_resource: ResourceId | None = field(init=False)
    """The one whose amount changes its duration, where it runs: as `settle_on` says."""
    amounts: Mapping[ResourceId, int] = field(default_factory=dict)
    """Units taken in the views under its token. Shared with decisions: replaced, never changed."""
    change: int = 0
    """Token of the change of its amounts that is not confirmed yet; 0 if there is none."""
    asked: Mapping[ResourceId, int] = field(default_factory=dict)
    """What the last change should come to."""
    stiff: bool = False
    """The node did not change its amounts as asked: it is not asked again."""
    stretches: Stretches | None = None
    """What its lease had of the key resource, since it runs."""
    since_s: float = 0.0
    """When it was granted, or its amount last changed."""
    left: float = 1.0
    """Share of its work that was left then."""
    end_s: float | None = None
    """Predicted end; None if it holds nothing, or nothing is known of its duration."""
    counted: int = 0
    """Units that it counts with in its resource's `Load`."""
    overtaken: int = 0
    """Grants of others at its cost while it headed a queue."""
    sent_on: int = 0
    """Times that it was its turn, but another resource's lack sent it to another queue."""
    reserved: bool = False
    """It was overtaken often enough: it is served before everybody else."""
    end: tuple[EndReason, str] | None = None
    forgotten: bool = False

    def __post_init__(self) -> None:
        self.id = self.action.id
        self.settle_on(self.node)

    def settle_on(self, node: str) -> None:
        """Where it will run, or runs."""
        self.node, demand = node, self.action.demand
        self.key_resource = None
        if demand.key is not None:
            self.key_resource = ResourceId(
                demand.key, node if demand.key in demand.per_node else CLUSTER
            )

    @property
    def boxed(self) -> bool:
        """It runs in its trajectory's sandbox: waits for it and takes a slot."""
        return self.seat is not None and self.action.kind == EXEC

    @property
    def homed(self) -> bool:
        """It runs on its trajectory's node, so the trajectory has to be placed first."""
        return self.boxed or bool(self.action.demand.per_node)

    def chooses(self, resource: ResourceId) -> bool:
        """Whether its amount of this resource is chosen when it is granted."""
        return self.choices is not None and resource.kind == self.action.demand.key

    def spans(self) -> tuple[WaitSpan, ...]:
        """All its waits, the last of which may go on."""
        if self.reason is None:
            return tuple(self.waited)
        return (*self.waited, WaitSpan(self.reason, self.resource, self.waits_since))

    def run_s(self, units: int) -> float | None:
        """Predicted run time with `units` of its key resource; None if nothing is known."""
        if self.choices is not None:
            return self.choices.duration_s(units)
        return self.profile.run_s(units)

    def allows(self, resource: ResourceId, amount: int) -> bool:
        """Whether a grant that holds this resource may hold so much of it."""
        demand = self.action.demand
        bounds = (demand.per_node if resource.node else demand.cluster).get(resource.kind)
        return resource in self.amounts and bounds is not None and amount in bounds

    def wanted(self) -> tuple[ResourceId, int]:
        """The resource that it is counted under while it waits, and how much of it: the one that
        it is queued at or limited at, else (at the gate) the first of its demand."""
        standing = self.queued_at or self.limited_at
        if standing is not None:
            return standing, self.needs[standing]
        demand = self.action.demand
        for kind, amounts in demand.per_node.items():
            node = self.seat.node if self.seat is not None else None
            return ResourceId(kind, node or CLUSTER), amounts.minimum
        kind, amounts = next(iter(demand.cluster.items()))
        return ResourceId(kind), amounts.minimum


@dataclass(slots=True, eq=False)
class Tally:
    """How many actions wait for one resource for one reason, and for how many units in all."""

    count: int = 0
    units: int = 0


class Waits:
    """Keeps every action's history of waits, and the sums over all that wait now."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[ResourceId, WaitReason], Tally] = {}

    def set(
        self, entry: Entry, reason: WaitReason, resource: ResourceId | None, now: float
    ) -> None:
        """The action waits for this from now on; the same as before goes on unbroken."""
        wanted, units = entry.wanted()
        tally = self._tallies.setdefault((wanted, reason), Tally())
        if entry.tally is not tally or entry.tallied != units:
            self._uncount(entry)
            entry.tally, entry.tallied = tally, units
            tally.count += 1
            tally.units += units
        if (entry.reason, entry.resource) == (reason, resource):
            return
        self._note(entry, now)
        entry.reason, entry.resource, entry.waits_since = reason, resource, now
        if len(entry.waited) >= SPANS_MAX:
            del entry.waited[SPANS_MAX // 2]

    def stop(self, entries: Iterable[Entry], now: float) -> None:
        """These wait no more."""
        for entry in entries:
            self._uncount(entry)
            self._note(entry, now)
            entry.reason = entry.resource = None

    def tallies(self) -> dict[tuple[ResourceId, WaitReason], Tally]:
        """All that are not zero; those that are zero are dropped, so that nodes may come and go."""
        self._tallies = {key: tally for key, tally in self._tallies.items() if tally.count}
        return self._tallies

    @staticmethod
    def _uncount(entry: Entry) -> None:
        if entry.tally is None:
            return
        entry.tally.count -= 1
        entry.tally.units -= entry.tallied
        entry.tally = None

    @staticmethod
    def _note(entry: Entry, now: float) -> None:
        """The wait that ends now."""
        if entry.reason is not None and now > entry.waits_since:
            entry.waited.append(WaitSpan(entry.reason, entry.resource, entry.waits_since, now))
