"""What outside checkers book of a scheduler: who holds what, by every event that it was told.

Applies events and counts units; raises `Violation` where the sums cannot be right. What decisions may
be is judged in `checkers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ... import events as ev
from ...model import CLUSTER, Action, Capacity, LeaseRecord, ResourceId, State
from .booked import Counter, Home, Job, Lease, Rules, Violation, require

BOXED = "exec"
"""The kind of action that runs in its trajectory's sandbox."""

LeaseEvent: TypeAlias = ev.Started | ev.ActionEnded | ev.LeaseReleased | ev.LeaseLost | ev.Resized
ActionEvent: TypeAlias = ev.Submitted | ev.CancelRequested | ev.CancelAllRequested | LeaseEvent

SLACK_S = 1e-9
"""Sums of floating-point times may differ by this."""


class Accounts:
    """What is known from outside of one scheduler, by what it was told."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.jobs: dict[str, Job] = {}
        self.homes: dict[str, Home] = {}
        self.last_token = 0
        self.counters: dict[ResourceId, Counter] = {}
        self._epochs: dict[str, int] = {}
        self._up: set[str] = set()
        self._owed: dict[str, str] = {}
        """Actions that have to be ended by the decisions at hand -> why."""
        self._strays: set[tuple[str, int]] = set()
        """Leases of the past that a node told of: they may be killed."""
        self._kept: set[str] = set()
        """Actions that wait and were reserved before the decisions at hand."""
        self._kills: set[str] = set()
        """Actions that have to be killed by the decisions at hand."""

    def _waits(self, action: str) -> bool:
        job = self.jobs.get(action)
        return job is not None and job.submitted and job.lease is None and job.end is None

    # Events

    def _apply(self, event: ev.Event, now: float, ended: list[str]) -> None:
        match event:
            case ev.NodeUp():
                self._join(event)
            case ev.NodeDown():
                self._leave(event)
            case ev.QuotaClosed(resource, until):
                counter = self.counters.get(resource)
                if counter is not None and counter.capacity.view == "quota":
                    counter.closed_until = max(counter.closed_until, until)
            case ev.TrajectoryOpened() | ev.TrajectoryClosed():
                self._trajectory(event)
            case ev.SandboxReady() | ev.SandboxLost() | ev.TrajectoryReleased():
                self._sandbox(event)
            case ev.Tick() | ev.ResizeRequested():
                pass
            case _:
                self._apply_to_action(event, ended)

    def _apply_to_action(self, event: ActionEvent, ended: list[str]) -> None:
        match event:
            case ev.Submitted(action):
                self._submitted(action)
            case ev.CancelRequested(name):
                self._cancelled(name)
            case ev.CancelAllRequested(names):
                for name in names:
                    self._cancelled(name)
            case _:
                self._lease(event, ended)

    def _trajectory(self, event: ev.TrajectoryOpened | ev.TrajectoryClosed) -> None:
        if isinstance(event, ev.TrajectoryOpened):
            self.homes[event.trajectory.id] = Home(event.trajectory)
        elif (home := self.homes.get(event.trajectory)) is not None:
            self._over(home, "its trajectory was closed")

    def _cancelled(self, action: str) -> None:
        job = self.jobs.get(action)
        if job is not None and job.submitted and job.end is None:
            self._owed[action] = "it was cancelled"

    def _submitted(self, action: Action) -> None:
        job = self.jobs.get(action.id)
        if job is None:
            self.jobs[action.id] = Job(action, len(self.jobs))
        else:
            job.submitted, job.settled = True, True

    def _sandbox(self, event: ev.SandboxReady | ev.SandboxLost | ev.TrajectoryReleased) -> None:
        home = self.homes.get(event.trajectory)
        if home is None or not home.token or home.token != event.token:
            return
        if isinstance(event, ev.SandboxReady):
            home.ready = not home.over
            return
        self._over(home, "its sandbox is gone")
        if isinstance(event, ev.TrajectoryReleased):
            self._vacate(home)

    def _over(self, home: Home, why: str) -> None:
        home.over, home.ready = True, False
        for job in self.jobs.values():
            if job.action.trajectory == home.trajectory.id and job.submitted and job.end is None:
                self._owed[job.action.id] = why

    def _vacate(self, home: Home) -> None:
        if home.token and home.node is not None:
            self._count({ResourceId(k, home.node): -n for k, n in home.trajectory.reserve.items()})
        home.token = 0

    def _lease(self, event: LeaseEvent, ended: list[str]) -> None:
        job = self.jobs.get(event.action)
        if job is None or job.lease is None or job.lease.token != event.token:
            return
        match event:
            case ev.Started():
                job.running = job.running or job.end is None
            case ev.ActionEnded(failed=failed):
                if job.end is None:
                    job.end = State.FAILED if failed else State.FINISHED
                    ended.append(event.action)
            case ev.Resized(amounts=amounts):
                if event.change == job.lease.change != 0:
                    lease = job.lease
                    self._recount(lease, {r: amounts.get(r, n) for r, n in lease.amounts.items()})
                    lease.change = 0
            case _:
                self._free(job, "its lease is gone")

    def _free(self, job: Job, why: str) -> None:
        assert job.lease is not None
        self._recount(job.lease, {})
        job.lease, job.running = None, False
        if job.end is None:
            self._owed[job.action.id] = why

    # Nodes

    def _join(self, event: ev.NodeUp) -> None:
        node = event.node
        if event.epoch <= self._epochs.get(node, -1):
            return
        if node in self._up:
            self._lose(node, frozenset((r.action.id, r.token) for r in event.leases))
        self._epochs[node] = event.epoch
        self._up.add(node)
        offered = {capacity.resource: capacity for capacity in event.capacities}
        for resource in [r for r in self.counters if r.node == node and r not in offered]:
            if self.counters[resource].taken:
                self.counters[resource].capacity = Capacity(resource, 0)
            else:
                del self.counters[resource]
        for resource, capacity in offered.items():
            self.counters.setdefault(resource, Counter(capacity)).capacity = capacity
        for record in event.leases:
            self._adopt(record)
        self._unsettle()

    def _leave(self, event: ev.NodeDown) -> None:
        node = event.node
        if node not in self._up or self._epochs[node] != event.epoch:
            return
        self._up.discard(node)
        self._lose(node, frozenset())
        for resource in [r for r in self.counters if r.node == node]:
            del self.counters[resource]
        self._unsettle()

    def _unsettle(self) -> None:
        """Who waits may queue anew: counts of what came before mean nothing."""
        for job in self.jobs.values():
            job.settled, job.overtaken = False, 0

    def _adopt(self, record: LeaseRecord) -> None:
        name = record.action.id
        self.last_token = max(self.last_token, record.token)
        job = self.jobs.setdefault(name, Job(record.action, len(self.jobs)))
        if job.end is not None and not job.submitted:
            # It ended before the scheduler was restarted, which cannot know.
            job.retold = True
        job.submitted = True
        if job.lease is not None and job.lease.token != record.token:
            self._strays.add((name, record.token))
            return
        if job.lease is None:
            job.lease, job.running = Lease(record.token, record.node, {}), job.end is None
        for resource, amount in record.amounts.items():
            if resource in self.counters and self._fits(job.lease, resource, amount):
                self._recount(job.lease, {**job.lease.amounts, resource: amount})
            elif resource in self.counters and job.end is None:
                self._owed[name] = "others have the units of its lease"
        job.lease.change = 0
        if job.end is not None and not job.retold:
            self._kills.add(name)

    def _fits(self, lease: Lease, resource: ResourceId, amount: int) -> bool:
        """While its node was away others may have got units of the cluster that it still uses:
        those cannot be booked twice."""
        counter = self.counters[resource]
        growth = counter.occupied(amount) - counter.occupied(lease.amounts.get(resource, 0))
        parameters = counter.capacity.parameters
        limit = parameters.get("concurrency", counter.capacity.total)
        return growth <= 0 or limit is None or counter.taken + growth <= limit

    def _lose(self, node: str, kept: frozenset[tuple[str, int]]) -> None:
        """All on this node that is not kept is gone. What an action holds elsewhere has to be
        killed, unless its own node is the one that is gone."""
        for name, job in self.jobs.items():
            lease = job.lease
            if lease is None or (name, lease.token) in kept:
                continue
            if lease.node == node:
                self._free(job, "its node is gone")
            elif any(resource.node == node for resource in lease.amounts):
                self._recount(lease, {r: n for r, n in lease.amounts.items() if r.node != node})
                if job.end is None:
                    self._owed[name] = "units of it are gone"
        for home in self.homes.values():
            if node != CLUSTER and home.node == node and home.token:
                keeps = any(
                    job.action.trajectory == home.trajectory.id
                    and job.lease is not None
                    and (name, job.lease.token) in kept
                    for name, job in self.jobs.items()
                )
                if not keeps:
                    self._over(home, "its node is gone")
                    self._vacate(home)

    # Units

    def _recount(self, lease: Lease, amounts: dict[ResourceId, int], now: float = 0.0) -> None:
        """The lease holds these from now on."""
        for resource in {**lease.amounts, **amounts}:
            if (counter := self.counters.get(resource)) is None:
                continue
            before, after = lease.amounts.get(resource, 0), amounts.get(resource, 0)
            counter.taken += counter.occupied(after) - counter.occupied(before)
            if after > before and "windows" in counter.capacity.parameters:
                counter.begun.append((now, after - before))
        lease.amounts = amounts

    def _count(self, change: Mapping[ResourceId, int]) -> None:
        for resource, amount in change.items():
            if resource in self.counters:
                self.counters[resource].taken += amount

    def _limit(self, task: str, kind: str) -> int | None:
        limits = self.rules.limits
        return limits.get(task, {}).get(kind) or limits.get("*", {}).get(kind)

    def _is_limited(self, job: Job) -> bool:
        demand = job.action.demand
        kinds = (*demand.per_node, *demand.cluster)
        return any(self._limit(job.action.task, kind) is not None for kind in kinds)

    def _check_limit(self, task: str, kind: str, what: object) -> None:
        if (most := self._limit(task, kind)) is None:
            return
        leases = (job.lease for job in self.jobs.values() if job.action.task == task)
        held = sum(n for ls in leases if ls for r, n in ls.amounts.items() if r.kind == kind)
        require(held <= most, "limit", what, task, "holds", held, kind, "and may", most)

    def _check_capacity(self, resource: ResourceId, what: object, now: float) -> None:
        counter = self.counters.get(resource)
        if counter is None:
            raise Violation("node", f"{what}: there is no {resource}")
        if excess := counter.excess(now):
            raise Violation("units", f"{what}: of {resource} {excess}")
