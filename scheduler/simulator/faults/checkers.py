"""Checkers of a scheduler that stand outside it: they see events and decisions, nothing else.

`Book` books what every event and every decision means by the contract of `events` and `decisions`,
and raises `Violation` where a decision cannot be right: units granted twice, a vector in part, a
decision for what has ended or under an old token, an action that is lost. Knows nothing of queues
or policies beyond what `Rules` says.
"""

from __future__ import annotations

from collections.abc import Iterable

from ... import events as ev
from ...decisions import Decision, End, Grant, Kill, Place, Reserve, Resize
from ...model import (
    CLUSTER,
    ResourceId,
)
from .accounts import BOXED, SLACK_S, Accounts
from .booked import Job, Lease, Rules, Violation, require

__all__ = ["Book", "Rules", "Violation"]


class Book(Accounts):
    """What is known from outside of one scheduler. `saw` after each call of `handle`."""

    def saw(self, event: ev.Event, decisions: Iterable[Decision], now: float) -> list[str]:
        """The actions that came to their end. Raises Violation."""
        ended: list[str] = []
        self._owed, self._kills, self._strays = {}, set(), set()
        self._kept = {name for name, job in self.jobs.items() if job.reserved and self._waits(name)}
        self._apply(event, now, ended)
        for decision in decisions:
            self._judge(decision, now, ended)
        for action, why in self._owed.items():
            require(self.jobs[action].end is not None, "lost", action, "got no end:", why)
        for action in self._kills:
            raise Violation("kill", f"{action} ended, holds its units and was not killed")
        for decision in decisions:
            if isinstance(decision, Grant):
                self._count_overtaken(decision)
        return ended

    def _judge(self, decision: Decision, now: float, ended: list[str]) -> None:
        match decision:
            case Grant():
                self._granted(decision, now)
            case Place():
                self._placed(decision)
            case End():
                self._ended(decision, ended)
            case Kill():
                self._killed(decision)
            case Resize():
                self._resize(decision, now)
            case Reserve(action):
                require(self._waits(action), "reserve", action, "does not wait")
                self.jobs[action].reserved = True

    def restarted(self) -> None:
        """The scheduler is a new one: it knows nothing yet. Ends stand."""
        self.counters, self._epochs, self._up = {}, {}, set()
        for job in self.jobs.values():
            job.lease, job.running, job.submitted = None, False, False
            job.overtaken, job.reserved = 0, False
        self.homes = {}

    def waiting(self) -> list[str]:
        return [name for name in self.jobs if self._waits(name)]

    def unfinished(self) -> list[str]:
        """Without an end, or holding units still."""
        return [name for name, job in self.jobs.items() if job.end is None or job.lease]

    # Decisions

    def _granted(self, grant: Grant, now: float) -> None:
        name = grant.action
        require(name in self.jobs, "unknown", grant)
        job = self.jobs[name]
        require(self._waits(name), "granted twice", grant, ": it holds units, or has ended")
        self._fresh(grant.token)
        self._check_vector(job, grant)
        self._check_gate(job, grant)
        if job.action.deadline is not None:
            require(now < job.action.deadline, "deadline", grant, ": it is over")
        if self.rules.in_order and not job.reserved:
            older = self._older_in_line(job)
            require(not older, "order", grant, ": before", older)
        job.lease = Lease(grant.token, grant.node, {})
        self._recount(job.lease, dict(grant.amounts), now)
        for resource in grant.amounts:
            self._check_capacity(resource, grant, now)
            counter = self.counters[resource]
            require(now >= counter.closed_until, "closed", grant, resource, "is closed")
            self._check_limit(job.action.task, resource.kind, grant)
            self._check_reserved(job, resource, grant)

    def _check_vector(self, job: Job, grant: Grant) -> None:
        demand = job.action.demand
        bounds = {ResourceId(k, grant.node): a for k, a in demand.per_node.items()}
        bounds |= {ResourceId(k): a for k, a in demand.cluster.items()}
        whole = grant.amounts.keys() == bounds.keys()
        require(whole, "vector", grant, ", and its demand is", demand)
        for resource, amount in grant.amounts.items():
            require(resource.node in self._up, "node", grant, resource, "is not there")
            require(amount in bounds[resource], "feasible", grant, bounds[resource])
        profile, timeout_s = job.action.profile, job.action.timeout_s
        if not self.rules.chooses or demand.key is None or timeout_s is None or not job.settled:
            return
        key = ResourceId(demand.key, grant.node if demand.key in demand.per_node else CLUSTER)
        if not profile.scales or not bounds[key].elastic:
            return
        largest = self.counters[key].largest()
        if (allowed := self._limit(job.action.task, key.kind)) is not None:
            largest = min(largest, allowed)
        took_s = profile.run_s(grant.amounts[key]) or 0.0
        better = [m for m in bounds[key] if m <= largest and (profile.run_s(m) or 0.0) <= timeout_s]
        late = took_s > timeout_s + SLACK_S and bool(better)
        require(not late, "timeout", grant, ": would take", took_s, "s of", timeout_s)

    def _check_gate(self, job: Job, grant: Grant) -> None:
        name = job.action.trajectory
        if name is None or not (job.action.demand.per_node or job.action.kind == BOXED):
            return
        home = self.homes[name]
        require(not home.over, "gate", grant, ": its trajectory is over")
        require(bool(home.token), "gate", grant, ": its trajectory has no node")
        if job.action.demand.per_node:
            require(home.node == grant.node, "gate", grant, ": its trajectory is on", home.node)
        if job.action.kind == BOXED:
            ready = home.ready or not home.trajectory.sandboxed
            require(ready, "gate", grant, ": its sandbox is not ready")
            most = home.trajectory.concurrency
            require(self._slots(name) < most, "concurrency", grant, most, "run already")

    def _slots(self, trajectory: str) -> int:
        return sum(
            job.action.trajectory == trajectory and job.action.kind == BOXED
            for job in self.jobs.values()
            if job.lease is not None
        )

    def _placed(self, place: Place) -> None:
        home = self.homes.get(place.trajectory)
        if home is None:
            raise Violation("unknown", f"{place}")
        require(home.node is None and not home.over, "placed twice", place, home)
        require(place.node in self._up, "node", place, ": the node is not there")
        self._fresh(place.token)
        apart = [
            job.action.id
            for job in self.jobs.values()
            if job.action.trajectory == place.trajectory
            and job.lease is not None
            and job.lease.node not in (CLUSTER, place.node)
        ]
        require(not apart, "placed apart", place, apart, "run elsewhere")
        home.node, home.token = place.node, place.token
        self._count({ResourceId(k, place.node): n for k, n in home.trajectory.reserve.items()})
        for kind in home.trajectory.reserve:
            self._check_capacity(ResourceId(kind, place.node), place, 0.0)

    def _ended(self, end: End, ended: list[str]) -> None:
        require(end.action in self.jobs, "unknown", end)
        job = self.jobs[end.action]
        again = job.end is not None and job.retold
        job.retold = False
        require(job.end is None or again, "ended twice", end, ": it ended as", job.end)
        require(end.state.ended and bool(end.message), "end", end, "is none")
        if not again:
            job.end = end.state
            ended.append(end.action)
        if job.lease is not None:
            self._kills.add(end.action)

    def _killed(self, kill: Kill) -> None:
        job = self.jobs.get(kill.action)
        if (kill.action, kill.token) in self._strays:
            return
        if job is None or job.lease is None or job.lease.token != kill.token:
            raise Violation("kill", f"{kill}: it holds nothing under this token")
        require(job.lease.node == kill.node, "kill", kill, ": it runs on", job.lease.node)
        require(job.end is not None, "kill", kill, ": it has no end")
        self._kills.discard(kill.action)
        job.lease.killed = True

    def _resize(self, resize: Resize, now: float) -> None:
        job = self.jobs.get(resize.action)
        if job is None or job.lease is None or job.lease.token != resize.token:
            raise Violation("resize", f"{resize}: it holds nothing under this token")
        lease, demand = job.lease, job.action.demand
        require(job.running and job.end is None, "resize", resize, ": it does not run")
        require(not lease.change, "resize", resize, ": another is not confirmed")
        same = resize.amounts.keys() == lease.amounts.keys()
        require(same, "vector", resize, ": it holds", lease.amounts)
        for resource, amount in resize.amounts.items():
            bounds = (demand.per_node if resource.node else demand.cluster)[resource.kind]
            require(amount in bounds, "feasible", resize, bounds)
        grown = [r for r, n in resize.amounts.items() if n > lease.amounts[r]]
        most = {r: max(n, lease.amounts[r]) for r, n in resize.amounts.items()}
        self._recount(lease, most, now)
        self._fresh(resize.change)
        lease.change = resize.change
        for resource in grown:
            self._check_capacity(resource, resize, now)
            self._check_limit(job.action.task, resource.kind, resize)

    def _fresh(self, token: int) -> None:
        require(token > self.last_token, "token", token, "is not above", self.last_token)
        self.last_token = token

    # Order

    def _wants(self, job: Job) -> dict[ResourceId, int]:
        """Least amounts, bound to a node; empty while it has none."""
        demand = job.action.demand
        node = CLUSTER
        if job.action.trajectory is not None and (demand.per_node or job.action.kind == BOXED):
            home = self.homes.get(job.action.trajectory)
            if home is None or home.node is None or not home.token:
                return {}
            node = home.node
        least = {ResourceId(k, node): a.minimum for k, a in demand.per_node.items()}
        return least | {ResourceId(k): a.minimum for k, a in demand.cluster.items()}

    def _may_run(self, job: Job) -> bool:
        """It passed the gate of its trajectory, as far as can be told from outside."""
        name, action = job.action.trajectory, job.action
        if name is None or action.kind != BOXED:
            return name is None or not action.demand.per_node or bool(self.homes[name].token)
        home = self.homes[name]
        ready = home.ready or (not home.trajectory.sandboxed and bool(home.token))
        before = sum(
            other.number < job.number and self._waits(other.action.id)
            for other in self.jobs.values()
            if other.action.trajectory == name and other.action.kind == BOXED
        )
        return ready and not home.over and self._slots(name) + before < home.trajectory.concurrency

    def _priority(self, job: Job) -> int:
        home = self.homes.get(job.action.trajectory or "")
        return job.action.priority + (home.trajectory.priority if home else 0)

    def _older_in_line(self, job: Job) -> list[str]:
        """Those that want the one resource that this job wants, came before it, with no lower
        priority, and were there to be served."""
        wants = self._wants(job)
        if len(wants) != 1:
            return []
        return [
            name
            for name, other in self.jobs.items()
            if other is not job
            and self._waits(name)
            and (-self._priority(other), other.number) < (-self._priority(job), job.number)
            and self._wants(other).keys() == wants.keys()
            and self._may_run(other)
        ]

    def _check_reserved(self, job: Job, resource: ResourceId, grant: Grant) -> None:
        """Who is not reserved leaves what those need that are, and could run. Who waited too long
        for a limit of its task comes first as well, which no decision tells: the older of two such
        goes before the other."""
        counter = self.counters[resource]
        if not self.rules.reserves or job.reserved or counter.capacity.view != "linear":
            return
        kept, limited = 0, self._is_limited(job)
        for name in self._kept:
            if limited and job.number < self.jobs[name].number:
                continue
            if self._waits(name) and self._may_run(self.jobs[name]):
                wants = self._wants(self.jobs[name])
                known = all(wanted in self.counters for wanted in wants)
                kept += wants.get(resource, 0) if known else 0
        left = counter.capacity.total - counter.taken
        require(kept <= left, "reserved", grant, "leaves", left, "of", resource, ", kept are", kept)

    def _count_overtaken(self, grant: Grant) -> None:
        """Younger grants at the cost of who waits: they leave less than it needs."""
        most = self.rules.overtaken_max
        if most is None:
            return
        number = self.jobs[grant.action].number
        for name, job in self.jobs.items():
            if job.number >= number or not self._waits(name) or not self._may_run(job):
                continue
            for resource, need in self._wants(job).items():
                counter = self.counters.get(resource)
                if counter is None or resource not in grant.amounts:
                    continue
                if counter.capacity.total - counter.taken < need:
                    job.overtaken += 1
                    break
            require(job.overtaken <= most, "overtaking", name, ": by", grant, "and others")
