"""Random histories with faults, judged from outside: a host that keeps its own books.

The host follows decisions as a dispatcher would, out of order and with repetitions, and knows by
itself what is held where. At the end the faults stop, and everything has to finish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tangram.scheduler import (
    CLUSTER,
    Action,
    ActionEnded,
    Amounts,
    CancelAllRequested,
    CancelRequested,
    Decision,
    Demand,
    End,
    EndReason,
    Event,
    Grant,
    Kill,
    LeaseLost,
    LeaseRecord,
    LeaseReleased,
    NodeDown,
    NodeUp,
    Place,
    Profile,
    QuotaClosed,
    Resize,
    Resized,
    ResizeRequested,
    ResourceId,
    SandboxLost,
    SandboxReady,
    Scheduler,
    Started,
    State,
    Submitted,
    Tick,
    Trajectory,
    TrajectoryClosed,
    TrajectoryOpened,
    TrajectoryReleased,
)

from .dialogue import SEARCH, ClosableView, machine, quota

NODES = ("n0", "n1")
TASKS = ("red", "blue")
POLICIES = ("fcfs", "fixed:2", "backfill:2", "arl-tangram", "elastic")
ORDERS = ("first-come", "priority:ageing=5", "fair-share", "group:ageing=5")
LIMITS: tuple[dict[str, dict[str, int]], ...] = (
    {},
    {"red": {"cores": 3, "quota:search": 2}},
    {"*": {"cores": 4}, "blue": {"quota:search": 1}},
)
CORES_EACH = 4
SEARCHES = 3

REPEATABLE = (
    Started
    | ActionEnded
    | LeaseReleased
    | LeaseLost
    | SandboxReady
    | SandboxLost
    | TrajectoryReleased
    | NodeUp
    | NodeDown
)


PROFILES = st.sampled_from(
    [
        Profile(),
        Profile(2.0),
        Profile(0.5, serial=0.0),
        Profile(8.0, serial=0.2),
        Profile(3.0, {2: 0.9, 4: 0.5}),
    ]
)


@dataclass
class Sandbox:
    """A trajectory as the host sees it."""

    concurrency: int
    priority: int
    task: str
    group: str
    only_node: str = ""
    node: str = ""
    token: int = 0
    ready: bool = False
    closed: bool = False


@dataclass
class Job:
    """An action as the host sees it."""

    action: Action
    order: tuple[int, int]
    grant: Grant | None = None
    amounts: Mapping[ResourceId, int] = field(default_factory=dict)
    """What it holds, or may hold while it is being resized."""
    resizes: tuple[Mapping[ResourceId, int], ...] = ()
    """While it is being resized: what it may come to, as before or as asked for."""
    change: int = 0
    """Token of the last change of its amounts."""
    held: bool = False
    killed: bool = False
    ends: list[str] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return self.grant is None and not self.ends


class Host(RuleBasedStateMachine):
    """Sends events, keeps its books by the decisions, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}
        self.scheduler = self.fresh_scheduler()
        self.now = 0.0
        self.log: list[tuple[Event, float, list[Decision]]] = []
        self.epochs = dict.fromkeys((*NODES, CLUSTER), 0)
        self.up: set[str] = set()
        self.jobs: dict[str, Job] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self.last_token = 0

    def fresh_scheduler(self) -> Scheduler:
        return Scheduler({"closable": ClosableView}, **self.options)

    # The host's books

    def tell(self, event: Event) -> None:
        decisions = self.scheduler.handle(event, self.now)
        self.log.append((event, self.now, decisions))
        for decision in decisions:
            self.follow(decision)

    def follow(self, decision: Decision) -> None:
        match decision:
            case Place(trajectory, node, token):
                sandbox = self.sandboxes[trajectory]
                assert not sandbox.token and not sandbox.closed and node in self.up
                assert sandbox.only_node in ("", node)
                self.fresh_token(token)
                sandbox.node, sandbox.token = node, token
            case Grant():
                self.granted(decision)
            case End(action):
                self.end(self.jobs[action], str(decision.state))
            case Resize(action, _, token, amounts, change):
                job = self.jobs[action]
                self.fresh_token(change)
                job.change = change
                assert job.grant is not None and job.grant.token == token and job.held
                job.resizes = (job.amounts, amounts)
                job.amounts = {r: max(n, job.amounts[r]) for r, n in amounts.items()}
                self.check_taken(job)
            case Kill(action, _, token):
                job = self.jobs[action]
                assert job.grant is not None and job.grant.token == token
                job.killed = True

    def granted(self, grant: Grant) -> None:
        job = self.jobs[grant.action]
        assert job.waits, "granted twice, or after its end"
        assert not self.older_in_line(job), "not the first of those that want the same"
        self.fresh_token(grant.token)
        job.grant, job.amounts, job.held = grant, grant.amounts, True
        demand = job.action.demand
        asked = (*demand.per_node.items(), *demand.cluster.items())
        assert {resource.kind for resource in grant.amounts} == {kind for kind, _ in asked}
        for resource, amount in grant.amounts.items():
            amounts = demand.of(resource.kind)
            assert amount in amounts
            assert resource.kind == demand.key or amount == amounts.minimum
        self.check_taken(job)

    def check_taken(self, job: Job) -> None:
        """Nothing is held twice, and no task holds more than it may."""
        for resource in job.amounts:
            limit = SEARCHES if resource == SEARCH else CORES_EACH
            assert self.taken(resource) <= limit, f"{resource} was granted twice"
            assert resource.node in self.up
            most = self.limit_of(job.action.task, resource.kind)
            assert self.held_by(job.action.task, resource.kind) <= most, "above its limit"

    def limit_of(self, task: str, kind: str) -> int:
        limits = self.options.get("limits", {})
        for name in (task, "*"):
            if kind in limits.get(name, {}):
                return int(limits[name][kind])
        return 1 << 50

    def held_by(self, task: str, kind: str) -> int:
        held = (job for job in self.holding() if job.action.task == task)
        return sum(n for job in held for r, n in job.amounts.items() if r.kind == kind)

    def chooses(self, job: Job) -> bool:
        """Its amount is the policy's to choose."""
        demand = job.action.demand
        elastic = demand.key is not None and demand.of(demand.key).elastic
        chosen = self.options.get("policy") in ("elastic", "arl-tangram")
        return chosen and elastic and job.action.profile.scales

    def older_in_line(self, job: Job) -> list[Job]:
        """Those that want the one resource that this job wants, came before it and are free to
        run. Demands for several resources may be overtaken, so they are not looked at; nor those
        that choose their amount, nor where another order or a limit decides."""
        strict = self.options.get("policy") != "backfill:2" and not self.options.get("limits")
        if not strict or self.options.get("order") != "first-come" or self.chooses(job):
            return []
        return [
            other
            for other in self.jobs.values()
            if other.waits
            and not self.chooses(other)
            and other.order < job.order
            and len(self.wants(job)) == 1
            and self.wants(other) == self.wants(job)
            and self.may_run(other)
        ]

    def wants(self, job: Job) -> set[ResourceId]:
        demand = job.action.demand
        node = self.sandboxes[job.action.trajectory].node if job.action.trajectory else ""
        return {ResourceId(kind, node) for kind in demand.per_node} | {
            ResourceId(kind) for kind in demand.cluster
        }

    def may_run(self, job: Job) -> bool:
        """It has passed the gate of its trajectory, as far as can be told from outside."""
        name = job.action.trajectory
        if name is None:
            return True
        before = [
            other
            for other in self.jobs.values()
            if other.action.trajectory == name
            and other is not job
            and (other.held or (other.waits and other.order[1] < job.order[1]))
        ]
        sandbox = self.sandboxes[name]
        return sandbox.ready and len(before) < sandbox.concurrency

    def taken(self, resource: ResourceId) -> int:
        return sum(job.amounts.get(resource, 0) for job in self.holding())

    def fresh_token(self, token: int) -> None:
        assert token > self.last_token
        self.last_token = token

    def end(self, job: Job, how: str) -> None:
        assert not job.ends, f"{job.action.id} ends as {how} after {job.ends}"
        job.ends.append(how)

    def holding(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.held]

    def living(self) -> list[str]:
        return [name for name, sandbox in self.sandboxes.items() if sandbox.token]

    # What happens

    @initialize(
        nodes=st.lists(st.sampled_from((*NODES, CLUSTER)), unique=True),
        policy=st.sampled_from(POLICIES),
        order=st.sampled_from(ORDERS),
        limits=st.sampled_from(LIMITS),
    )
    def some_nodes_join(
        self, nodes: list[str], policy: str, order: str, limits: dict[str, dict[str, int]]
    ) -> None:
        weights = {"red": 3.0, "lab": 0.5}
        self.options = {"policy": policy, "order": order, "weights": weights, "limits": limits}
        self.scheduler = self.fresh_scheduler()
        for node in nodes:
            self.join(node, keep=[])

    def join(self, node: str, keep: list[Job]) -> None:
        """Up, or up again without having been down: what is not kept is gone."""
        kept_trajectories = {job.action.trajectory for job in keep}
        leases = tuple(
            LeaseRecord(job.action, job.grant.token, job.grant.node, job.amounts)
            for job in keep
            if job.grant is not None
        )
        self.drop(node, keep, kept_trajectories)
        self.epochs[node] += 1
        self.up.add(node)
        offered = quota(SEARCHES) if node == CLUSTER else machine(CORES_EACH, 100, node)
        self.tell(NodeUp(node, self.epochs[node], offered, leases))

    def drop(self, node: str, keep: list[Job], kept_trajectories: set[str | None]) -> None:
        """What runs elsewhere loses what it has here, and holds the rest until it is released."""
        for job in self.holding():
            if job.grant is None or not any(r.node == node for r in job.amounts):
                continue
            job.resizes = ()
            if job not in keep and job.grant.node == node:
                job.held = False
            elif job not in keep:
                job.amounts = {r: n for r, n in job.amounts.items() if r.node != node}
        for name, sandbox in self.sandboxes.items():
            if node != CLUSTER and sandbox.node == node and name not in kept_trajectories:
                sandbox.token, sandbox.ready = 0, False
                sandbox.closed = True
                for job in self.jobs.values():
                    if job.action.trajectory == name and job.grant and job.grant.node == node:
                        job.held = False

    @rule(data=st.data(), node=st.sampled_from((*NODES, CLUSTER)))
    def a_node_joins(self, data: st.DataObject, node: str) -> None:
        on_node = [job for job in self.holding() if any(r.node == node for r in job.amounts)]
        keep = [job for job in on_node if data.draw(st.booleans())]
        self.join(node, keep)

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def a_node_goes(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.up)))
        self.up.discard(node)
        self.drop(node, [], set())
        self.tell(NodeDown(node, self.epochs[node]))

    @rule(
        memory=st.sampled_from([0, 10, 40, 90, 101]),
        concurrency=st.integers(1, 3),
        priority=st.integers(-1, 1),
        task=st.sampled_from(TASKS),
        group=st.sampled_from(["", "g"]),
        node=st.sampled_from(["", "", *NODES]),
    )
    def a_trajectory_opens(
        self, memory: int, concurrency: int, priority: int, task: str, group: str, node: str
    ) -> None:
        name = f"t{len(self.sandboxes)}"
        self.sandboxes[name] = Sandbox(concurrency, priority, task, group, node)
        reserve = {"memory": memory} if memory else {}
        tenant = "lab" if task == TASKS[0] else ""
        trajectory = Trajectory(
            name, task, reserve, concurrency, priority, group, 3, tenant, node=node
        )
        self.tell(TrajectoryOpened(trajectory))

    @rule(data=st.data())
    def an_action_is_submitted(self, data: st.DataObject) -> None:
        names: list[Any] = [None, *self.sandboxes]
        trajectory = data.draw(st.sampled_from(names))
        cores = data.draw(st.integers(1, 5)) if trajectory else 0
        searches = data.draw(st.integers(0, 3)) if trajectory else data.draw(st.integers(1, 4))
        per_node = {"cores": Amounts.between(cores, cores + 2)} if cores else {}
        cluster = {"quota:search": Amounts.between(searches, searches + 1)} if searches else {}
        key = data.draw(st.sampled_from([None, *per_node, *cluster]))
        if key is None or key not in cluster:
            cluster = {kind: Amounts.exactly(a.minimum) for kind, a in cluster.items()}
        priority = data.draw(st.integers(-1, 1))
        deadline = data.draw(st.one_of(st.none(), st.floats(0, 20)))
        number = len(self.jobs)
        home = self.sandboxes[trajectory] if trajectory else None
        action = Action(
            id=f"a{number}",
            task=home.task if home else data.draw(st.sampled_from(TASKS)),
            demand=Demand(per_node, cluster, key),
            trajectory=trajectory,
            kind="exec" if trajectory else "call",
            priority=priority,
            deadline=None if deadline is None else self.now + deadline,
            timeout_s=data.draw(st.sampled_from([None, 1.0, 4.0])),
            profile=data.draw(PROFILES),
            group=home.group if home else "",
            step=3,
            tenant=data.draw(st.sampled_from(["", "lab"])),
            malleable=data.draw(st.booleans()),
        )
        if trajectory:
            priority += self.sandboxes[trajectory].priority
        self.jobs[action.id] = Job(action, (-priority, number))
        self.tell(Submitted(action))

    @precondition(lambda self: self.living())
    @rule(data=st.data(), lost=st.booleans())
    def a_sandbox_answers(self, data: st.DataObject, lost: bool) -> None:
        name = data.draw(st.sampled_from(self.living()))
        sandbox = self.sandboxes[name]
        if lost:
            sandbox.closed, sandbox.ready = True, False
            self.tell(SandboxLost(name, sandbox.token, EndReason.LOST, "it died"))
        else:
            sandbox.ready = not sandbox.closed
            self.tell(SandboxReady(name, sandbox.token))

    @precondition(lambda self: self.sandboxes)
    @rule(data=st.data(), release=st.booleans())
    def a_trajectory_is_closed(self, data: st.DataObject, release: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.sandboxes)))
        sandbox = self.sandboxes[name]
        sandbox.closed, sandbox.ready = True, False
        self.tell(TrajectoryClosed(name))
        if release and sandbox.token:
            token, sandbox.token = sandbox.token, 0
            self.tell(TrajectoryReleased(name, token))

    @precondition(lambda self: self.holding())
    @rule(data=st.data(), how=st.sampled_from(["start", "end", "release", "lose"]))
    def a_lease_moves_on(self, data: st.DataObject, how: str) -> None:
        job = data.draw(st.sampled_from(self.holding()))
        assert job.grant is not None
        name, token = job.action.id, job.grant.token
        if how == "start":
            self.tell(Started(name, token))
        elif how == "lose":
            job.held = False
            self.tell(LeaseLost(name, token, "gone"))
        else:
            if not job.ends:
                self.end(job, "finished")
            self.tell(ActionEnded(name, token))
            if how == "release":
                job.held = False
                self.tell(LeaseReleased(name, token))

    @rule(data=st.data())
    def somebody_cancels(self, data: st.DataObject) -> None:
        self.tell(CancelRequested(data.draw(st.sampled_from(["nobody", *self.jobs]))))

    @rule(task=st.sampled_from(TASKS))
    def a_group_is_cancelled(self, task: str) -> None:
        members = [
            name
            for name, job in self.jobs.items()
            if job.action.task == task and job.action.group == "g"
        ]
        self.tell(CancelAllRequested(("nobody", *members), "decided"))
        assert all(self.jobs[name].ends for name in members)

    @precondition(lambda self: self.holding())
    @rule(data=st.data(), cores=st.integers(1, 7))
    def somebody_wants_other_amounts(self, data: st.DataObject, cores: int) -> None:
        job = data.draw(st.sampled_from(self.holding()))
        resource = data.draw(st.sampled_from(sorted(job.amounts)))
        self.tell(ResizeRequested(job.action.id, {resource: cores}))

    @precondition(lambda self: any(job.resizes for job in self.holding()))
    @rule(data=st.data())
    def a_node_has_resized(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.holding() if job.resizes]))
        assert job.grant is not None
        job.amounts, job.resizes = data.draw(st.sampled_from(job.resizes)), ()
        self.tell(Resized(job.action.id, job.grant.token, job.amounts, job.change))

    @rule(seconds=st.floats(0, 10))
    def the_quota_is_closed(self, seconds: float) -> None:
        self.tell(QuotaClosed(SEARCH, self.now + seconds))

    @rule(seconds=st.floats(0.01, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def an_old_event_comes_again(self, data: st.DataObject) -> None:
        old = [event for event, _, _ in self.log if isinstance(event, REPEATABLE)]
        if not old:
            return
        event = data.draw(st.sampled_from(old))
        before = self.scheduler.stale
        self.tell(event)
        # The others may still be current, and then say nothing new.
        if isinstance(event, LeaseReleased | LeaseLost | TrajectoryReleased | NodeUp | NodeDown):
            assert self.scheduler.stale == before + 1

    # What must hold

    @invariant()
    def the_scheduler_agrees_with_itself(self) -> None:
        self.scheduler.check_invariants()

    @invariant()
    def the_scheduler_agrees_with_the_host(self) -> None:
        for resource in self.scheduler.resources():
            view = self.scheduler.view(resource)
            if resource.kind != "memory":
                assert view.taken == self.taken(resource), resource
        for name, job in self.jobs.items():
            state = self.scheduler.explain(name, self.now).state
            assert state.ended == bool(job.ends), (name, state, job)
            assert (state is State.WAITING) == job.waits

    def teardown(self) -> None:
        """Faults stop: every action comes to an end, and what was held is free again."""
        for node in (*NODES, CLUSTER):
            if node not in self.up:
                self.join(node, keep=[])
        self.now += 100.0
        self.tell(Tick())
        for _ in range(2 * len(self.jobs) + 2 * len(self.sandboxes) + 2):
            self.let_everything_finish()
        unfinished = [job for job in self.jobs.values() if job.held or not job.ends]
        assert not unfinished, unfinished
        for name in list(self.sandboxes):
            self.tell(TrajectoryClosed(name))
            self.release_sandbox(name)
        self.scheduler.check_invariants()
        for resource in self.scheduler.resources():
            assert self.scheduler.view(resource).taken == 0, resource
        assert self.scheduler.waiting() == {}
        assert self.scheduler.next_wakeup(self.now) is None
        self.replay()

    def let_everything_finish(self) -> None:
        self.now += 2.0
        self.tell(Tick())
        for name in self.living():
            sandbox = self.sandboxes[name]
            idle = not any(
                job.held or job.waits for job in self.jobs.values() if job.action.trajectory == name
            )
            if idle:
                self.tell(TrajectoryClosed(name))
                self.release_sandbox(name)
            elif not sandbox.closed:
                sandbox.ready = True
                self.tell(SandboxReady(name, sandbox.token))
        for job in self.holding():
            assert job.grant is not None
            if not job.ends:
                self.end(job, "finished")
                self.tell(ActionEnded(job.action.id, job.grant.token))
            job.held = False
            self.tell(LeaseReleased(job.action.id, job.grant.token))

    def release_sandbox(self, name: str) -> None:
        sandbox = self.sandboxes[name]
        sandbox.closed, sandbox.ready = True, False
        if sandbox.token:
            token, sandbox.token = sandbox.token, 0
            self.tell(TrajectoryReleased(name, token))

    def replay(self) -> None:
        """The same events give the same decisions and the same answers."""
        again = self.fresh_scheduler()
        for event, now, decisions in self.log:
            assert again.handle(event, now) == decisions
        for name in self.jobs:
            assert again.explain(name, self.now) == self.scheduler.explain(name, self.now)
        assert again.waiting() == self.scheduler.waiting()
        assert again.stale == self.scheduler.stale


TestRandomHistories = Host.TestCase
TestRandomHistories.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
