"""The order `fair-share`: between tasks, weighted, by what each uses of its dominant resource.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996), with the dominant share of a demand as
its cost (Ghodsi et al., "Multi-Resource Fair Queueing for Packet Processing", SIGCOMM 2012). Virtual
time advances by what is used of the whole pool: one unit is the whole of some resource for a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from .model import DURATION_MIN_S, ResourceId
from .placement import reservation
from .ranking import Ranking, Totals, Weights
from .records import Entry, Seat

DURATION_UNKNOWN_S = 1.0
"""Taken for the first actions of a task, of which nothing is known; mended when they end."""

RECENT = 32
"""The mean duration of a task's actions follows about so many of the latest."""

FLOWS_MAX = 4_096
"""Tasks remembered while they have nothing to do; of more the oldest are forgotten, and would
begin anew like any other."""

TIER = 1.0
"""Width of a tier in virtual time: about a second of the whole pool."""


Owner: TypeAlias = tuple[str, str]
"""(tenant, task); a task of no tenant stands for itself."""


@dataclass(slots=True)
class Flow:
    """One task."""

    finish: float = 0.0
    """Tag at which its next begins, if it does not lag behind."""
    mean_s: float = DURATION_UNKNOWN_S
    seen: int = 0
    charges: int = 0
    """Of its own that have not been settled."""


@dataclass(slots=True)
class Charge:
    """What one of a flow was charged in advance, and what it used up to `since`."""

    flow: Flow
    owner: Owner
    weight: float
    tag: float
    cost: float
    share: float = 0.0
    """Dominant share that it holds."""
    used: float = 0.0
    began: float | None = None
    since: float = 0.0

    def book(self, now: float) -> None:
        self.used += self.share * (now - self.since)
        self.since = now


class FairQueue:
    """Tags of those that wait for one kind of service.

    A tenant's weight is divided among those of its tasks that have something to do, by theirs."""

    def __init__(self, weights: Weights) -> None:
        self.flows: dict[Owner, Flow] = {}
        self._weights = weights
        self._charges: dict[str, Charge] = {}
        self._busy: dict[str, dict[str, int]] = {}
        """Tenant -> its tasks that have something to do -> how much."""
        self._virtual = 0.0
        """The largest tag that was served."""

    def tag(self, name: str, owner: Owner, share: float, duration_s: float | None) -> float:
        """Where this one begins; its flow's next begins after it."""
        flow = self._flow(owner)
        flow.charges += 1
        self._begin(owner)
        weight = self._weight(owner)
        lasts_s = max(DURATION_MIN_S, flow.mean_s if duration_s is None else duration_s)
        tag, cost = max(self._virtual, flow.finish), share * lasts_s
        flow.finish = tag + cost / weight
        self._charges[name] = Charge(flow, owner, weight, tag, cost)
        return tag

    def start(self, name: str, share: float, now: float) -> None:
        """It holds this share from now on: begun, or another than before."""
        charge = self._charges[name]
        if charge.began is None:
            self._virtual = max(self._virtual, charge.tag)
            charge.began = charge.since = now
        charge.book(now)
        charge.share = share

    def settle(self, name: str, now: float) -> None:
        """It is over: charge what it used in place of what was foreseen. Silent if it is unknown."""
        charge = self._charges.pop(name, None)
        if charge is None:
            return
        charge.book(now)
        self._end(charge.owner)
        flow = charge.flow
        flow.charges -= 1
        flow.finish += (charge.used - charge.cost) / charge.weight
        if charge.began is not None:
            flow.seen = min(flow.seen + 1, RECENT)
            flow.mean_s += (now - charge.began - flow.mean_s) / flow.seen

    def _flow(self, owner: Owner) -> Flow:
        if owner not in self.flows and len(self.flows) >= FLOWS_MAX:
            idle = (name for name, flow in self.flows.items() if not flow.charges)
            if (oldest := next(idle, None)) is not None:
                del self.flows[oldest]
        return self.flows.setdefault(owner, Flow())

    def _begin(self, owner: Owner) -> None:
        tenant, task = owner
        if tenant:
            busy = self._busy.setdefault(tenant, {})
            busy[task] = busy.get(task, 0) + 1

    def _end(self, owner: Owner) -> None:
        tenant, task = owner
        if not tenant:
            return
        busy = self._busy[tenant]
        busy[task] -= 1
        if not busy[task]:
            del busy[task]
        if not busy:
            del self._busy[tenant]

    def _weight(self, owner: Owner) -> float:
        tenant, task = owner
        own = self._weights.get(task, 1.0)
        if not tenant:
            return own
        together = sum(self._weights.get(name, 1.0) for name in self._busy[tenant])
        return self._weights.get(tenant, 1.0) * own / together


class FairShare(Ranking):
    """Tags as ranks: actions, and trajectories that wait for a node. Priorities are not looked at."""

    def __init__(self, totals: Totals, weights: Weights) -> None:
        self._totals = totals
        self._actions = FairQueue(weights)
        self._trajectories = FairQueue(weights)

    def of_action(self, entry: Entry, priority: int) -> float:
        action, demand = entry.action, entry.action.demand
        least = {k: a.minimum for k, a in (*demand.per_node.items(), *demand.cluster.items())}
        share, run_s = self._share(least.items()), None
        if demand.key is not None:
            run_s = entry.profile.run_s(demand.of(demand.key).minimum)
        return self._actions.tag(action.id, (action.tenant, action.task), share, run_s)

    def of_trajectory(self, seat: Seat) -> float:
        trajectory = seat.trajectory
        share = self._share(trajectory.reserve.items())
        owner = (trajectory.tenant, trajectory.task)
        return self._trajectories.tag(trajectory.id, owner, share, None)

    def tier(self, rank: float) -> float:
        return rank // TIER

    def took(self, entry: Entry, now: float) -> None:
        self._actions.start(entry.id, self._share(_by_kind(entry.amounts.items())), now)

    def changed(self, entry: Entry, now: float) -> None:
        self.took(entry, now)

    def settled(self, entry: Entry, now: float) -> None:
        self._actions.settle(entry.id, now)

    def placed(self, seat: Seat, now: float) -> None:
        share = self._share(_by_kind(reservation(seat).items()))
        self._trajectories.start(seat.trajectory.id, share, now)

    def released(self, seat: Seat, now: float) -> None:
        self._trajectories.settle(seat.trajectory.id, now)

    def _share(self, amounts: Iterable[tuple[str, int]]) -> float:
        """The dominant one."""
        return max((amount / self._totals(kind) for kind, amount in amounts), default=0.0)


def _by_kind(amounts: Iterable[tuple[ResourceId, int]]) -> Iterable[tuple[str, int]]:
    return ((resource.kind, amount) for resource, amount in amounts)
