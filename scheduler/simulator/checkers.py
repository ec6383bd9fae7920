"""Checkers of a scheduler that stand outside it: they see events and decisions, nothing else.

`Book` books what every event and every decision means by the contract of `events` and `decisions`,
and raises `Violation` where a decision cannot be right: units granted twice, a vector in part, a
decision for what has ended or under an old token, an action that is lost. Knows nothing of queues
or policies beyond what `Rules` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .. import events as ev
from ..decisions import Decision, End, Grant, Kill, Place, Reserve, Resize
from ..model import (
    CLUSTER,
    Action,
    Capacity,
    LeaseRecord,
    ResourceId,
    State,
    Trajectory,
)

BOXED = "exec"
"""The kind of action that runs in its trajectory's sandbox."""

SLACK_S = 1e-9
"""Sums of floating-point times may differ by this."""


class Violation(AssertionError):
    """The scheduler broke a promise; `rule` names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Rules:
    """What a policy and an order promise beside what all do."""

    in_order: bool = False
    """Of those that want one and the same resource the first goes first."""
    overtaken_max: int | None = None
    """Younger grants at the cost of an action that could run. None: not bounded."""
    chooses: bool = False
    """Amounts are chosen by predicted durations, so timeouts narrow them."""
    limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Task, or "*" for any that is not named -> kind -> units that it holds at most."""


@dataclass(slots=True)
class Lease:
    """What an action holds, as far as the scheduler may know."""

    token: int
    node: str
    amounts: dict[ResourceId, int]
    change: int = 0
    """Of the Resize that is not answered yet."""
    killed: bool = False


@dataclass(slots=True)
class Job:
    """One action. `end` is how it ended, the first time."""

    action: Action
    number: int
    lease: Lease | None = None
    running: bool = False
    end: State | None = None
    retold: bool = False
    """It ended before a restart, and the new scheduler may say so once more."""
    submitted: bool = True
    overtaken: int = 0
    reserved: bool = False
    settled: bool = True
    """No capacity changed since it was submitted."""


@dataclass(slots=True)
class Home:
    """One trajectory."""

    trajectory: Trajectory
    node: str | None = None
    token: int = 0
    ready: bool = False
    over: bool = False


@dataclass(slots=True)
class Counter:
    """One resource: its capacity, and what is granted of it."""

    capacity: Capacity
    taken: int = 0
    closed_until: float = 0.0
    begun: deque[tuple[float, int]] = field(default_factory=deque)
    """When how much was granted, for windows."""

    def occupied(self, amount: int) -> int:
        """A grant of three GPUs holds a chunk of four."""
        if self.capacity.view == "chunks" and amount > 0:
            return 1 << (amount - 1).bit_length()
        return amount

    def largest(self) -> int:
        """The most that one grant could ever get."""
        parameters = self.capacity.parameters
        limits = [rate for rate, _ in parameters.get("windows", ())]
        limits.append(parameters.get("concurrency") or self.capacity.total)
        return min(*limits, parameters.get("per_node", self.capacity.total))

    def excess(self, now: float) -> str:
        """Which limit is passed; "" if none is."""
        windows: Iterable[tuple[int, float]] = self.capacity.parameters.get("windows", ())
        for rate, period_s in windows:
            begun = sum(n for at, n in self.begun if at + period_s > now)
            if begun > rate:
                return f"{begun} began within {period_s} s, and {rate} may"
        limit = self.capacity.total
        if "concurrency" in self.capacity.parameters:
            limit = self.capacity.parameters["concurrency"] or self.taken
        return f"{self.taken} are held, and there are {limit}" if self.taken > limit else ""


class Book:
    """What is known from outside of one scheduler. `saw` after each call of `handle`."""

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
        self._kills: set[str] = set()
        """Actions that have to be killed by the decisions at hand."""

    def saw(self, event: ev.Event, decisions: Iterable[Decision], now: float) -> list[str]:
        """The actions that came to their end. Raises Violation."""
        ended: list[str] = []
        self._owed, self._kills = {}, set()
        self._strays = set()
        self._apply(event, now, ended)
        grants: list[Grant] = []
        reserved: list[str] = []
        for decision in decisions:
            match decision:
                case Grant():
                    self._granted(decision, now)
                    grants.append(decision)
                case Place():
                    self._placed(decision)
                case End():
                    self._ended(decision, ended)
                case Kill():
                    self._killed(decision)
                case Resize():
                    self._resize(decision, now)
                case Reserve(action):
                    _require(self._waits(action), "reserve", f"{action} does not wait")
                    reserved.append(action)
        for action, why in self._owed.items():
            _require(self.jobs[action].end is not None, "lost", f"{action} got no end: {why}")
        for action in self._kills:
            raise Violation("kill", f"{action} ended, holds its units and was not killed")
        for grant in grants:
            self._count_overtaken(grant)
        for action in reserved:
            self.jobs[action].reserved = True
        return ended

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

    def _waits(self, action: str) -> bool:
        job = self.jobs.get(action)
        return job is not None and job.submitted and job.lease is None and job.end is None

    # Events

    def _apply(self, event: ev.Event, now: float, ended: list[str]) -> None:
        match event:
            case ev.NodeUp():
                self._join(event)
            case ev.NodeDown(node, epoch):
                if node in self._up and self._epochs[node] == epoch:
                    self._up.discard(node)
                    self._lose(node, frozenset())
                    for resource in [r for r in self.counters if r.node == node]:
                        del self.counters[resource]
                    self._unsettle()
            case ev.Submitted(action):
                self._submitted(action)
            case ev.TrajectoryOpened(trajectory):
                self.homes[trajectory.id] = Home(trajectory)
            case ev.TrajectoryClosed(trajectory=name):
                if name in self.homes:
                    self._over(self.homes[name], "its trajectory was closed")
            case ev.SandboxReady() | ev.SandboxLost() | ev.TrajectoryReleased():
                self._sandbox(event)
            case ev.QuotaClosed(resource, until):
                counter = self.counters.get(resource)
                if counter is not None and counter.capacity.view == "quota":
                    counter.closed_until = max(counter.closed_until, until)
            case ev.CancelRequested(action):
                self._cancelled(action)
            case ev.CancelAllRequested(actions):
                for action in actions:
                    self._cancelled(action)
            case ev.Tick():
                pass
            case _ if hasattr(event, "token"):
                self._lease(event, now, ended)  # type: ignore[arg-type]

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

    def _lease(
        self,
        event: ev.Started | ev.ActionEnded | ev.LeaseReleased | ev.LeaseLost | ev.Resized,
        now: float,
        ended: list[str],
    ) -> None:
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
        known = {r: n for r, n in record.amounts.items() if r in self.counters}
        if job.lease is None:
            job.lease, job.running = Lease(record.token, record.node, {}), job.end is None
        self._recount(job.lease, {**job.lease.amounts, **known})
        job.lease.change = 0
        if job.end is not None and not job.retold:
            self._kills.add(name)

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

    # Decisions

    def _granted(self, grant: Grant, now: float) -> None:
        name = grant.action
        _require(name in self.jobs, "unknown", f"{grant}")
        job = self.jobs[name]
        _require(self._waits(name), "granted twice", f"{grant}: it holds units, or has ended")
        self._fresh(grant.token)
        self._check_vector(job, grant)
        self._check_gate(job, grant)
        if job.action.deadline is not None:
            _require(now < job.action.deadline, "deadline", f"{grant}: it is over")
        if self.rules.in_order and not job.reserved:
            older = self._older_in_line(job)
            _require(not older, "order", f"{grant}: before {older}")
        job.lease = Lease(grant.token, grant.node, {})
        self._recount(job.lease, dict(grant.amounts), now)
        for resource in grant.amounts:
            self._check_capacity(resource, f"{grant}", now)
            counter = self.counters[resource]
            _require(now >= counter.closed_until, "closed", f"{grant}: {resource} is closed")
            self._check_limit(job.action.task, resource.kind, f"{grant}")

    def _check_vector(self, job: Job, grant: Grant) -> None:
        demand = job.action.demand
        bounds = {ResourceId(k, grant.node): a for k, a in demand.per_node.items()}
        bounds |= {ResourceId(k): a for k, a in demand.cluster.items()}
        whole = grant.amounts.keys() == bounds.keys()
        _require(whole, "vector", f"{grant}, and its demand is {demand}")
        for resource, amount in grant.amounts.items():
            _require(resource.node in self._up, "node", f"{grant}: {resource} is not there")
            _require(amount in bounds[resource], "feasible", f"{grant}: {bounds[resource]}")
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
        _require(not late, "timeout", f"{grant}: would take {took_s} s of {timeout_s}")

    def _check_gate(self, job: Job, grant: Grant) -> None:
        name = job.action.trajectory
        if name is None or not (job.action.demand.per_node or job.action.kind == BOXED):
            return
        home = self.homes[name]
        _require(not home.over, "gate", f"{grant}: its trajectory is over")
        _require(bool(home.token), "gate", f"{grant}: its trajectory has no node")
        if job.action.demand.per_node:
            _require(home.node == grant.node, "gate", f"{grant}: its trajectory is on {home.node}")
        if job.action.kind == BOXED:
            ready = home.ready or not home.trajectory.sandboxed
            _require(ready, "gate", f"{grant}: its sandbox is not ready")
            most = home.trajectory.concurrency
            _require(self._slots(name) < most, "concurrency", f"{grant}: {most} run already")

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
        _require(home.node is None and not home.over, "placed twice", f"{place}: {home}")
        _require(place.node in self._up, "node", f"{place}: the node is not there")
        self._fresh(place.token)
        apart = [
            job.action.id
            for job in self.jobs.values()
            if job.action.trajectory == place.trajectory
            and job.lease is not None
            and job.lease.node not in (CLUSTER, place.node)
        ]
        _require(not apart, "placed apart", f"{place}: {apart} run elsewhere")
        home.node, home.token = place.node, place.token
        self._count({ResourceId(k, place.node): n for k, n in home.trajectory.reserve.items()})
        for kind in home.trajectory.reserve:
            self._check_capacity(ResourceId(kind, place.node), f"{place}", 0.0)

    def _ended(self, end: End, ended: list[str]) -> None:
        _require(end.action in self.jobs, "unknown", f"{end}")
        job = self.jobs[end.action]
        again = job.end is not None and job.retold
        job.retold = False
        _require(job.end is None or again, "ended twice", f"{end}: it ended as {job.end}")
        _require(end.state.ended and bool(end.message), "end", f"{end} is none")
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
        _require(job.lease.node == kill.node, "kill", f"{kill}: it runs on {job.lease.node}")
        _require(job.end is not None, "kill", f"{kill}: it has no end")
        self._kills.discard(kill.action)
        job.lease.killed = True

    def _resize(self, resize: Resize, now: float) -> None:
        job = self.jobs.get(resize.action)
        if job is None or job.lease is None or job.lease.token != resize.token:
            raise Violation("resize", f"{resize}: it holds nothing under this token")
        lease, demand = job.lease, job.action.demand
        _require(job.running and job.end is None, "resize", f"{resize}: it does not run")
        _require(not lease.change, "resize", f"{resize}: another is not confirmed")
        same = resize.amounts.keys() == lease.amounts.keys()
        _require(same, "vector", f"{resize}: it holds {lease.amounts}")
        for resource, amount in resize.amounts.items():
            bounds = (demand.per_node if resource.node else demand.cluster)[resource.kind]
            _require(amount in bounds, "feasible", f"{resize}: {bounds}")
        grown = [r for r, n in resize.amounts.items() if n > lease.amounts[r]]
        most = {r: max(n, lease.amounts[r]) for r, n in resize.amounts.items()}
        self._recount(lease, most, now)
        self._fresh(resize.change)
        lease.change = resize.change
        for resource in grown:
            self._check_capacity(resource, f"{resize}", now)
            self._check_limit(job.action.task, resource.kind, f"{resize}")

    def _fresh(self, token: int) -> None:
        _require(token > self.last_token, "token", f"{token} is not above {self.last_token}")
        self.last_token = token

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

    def _check_limit(self, task: str, kind: str, what: str) -> None:
        if (most := self._limit(task, kind)) is None:
            return
        leases = (job.lease for job in self.jobs.values() if job.action.task == task)
        held = sum(n for ls in leases if ls for r, n in ls.amounts.items() if r.kind == kind)
        _require(held <= most, "limit", f"{what}: {task} holds {held} {kind} and may {most}")

    def _check_capacity(self, resource: ResourceId, what: str, now: float) -> None:
        counter = self.counters.get(resource)
        if counter is None:
            raise Violation("node", f"{what}: there is no {resource}")
        if excess := counter.excess(now):
            raise Violation("units", f"{what}: of {resource} {excess}")

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
            _require(job.overtaken <= most, "overtaking", f"{name}: by {grant} and others")


def _require(right: bool, rule: str, message: str) -> None:
    if not right:
        raise Violation(rule, message)
