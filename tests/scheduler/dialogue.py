"""Talking to a scheduler in tests: one event in, the decisions out, invariants checked each time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from tangram.scheduler import (
    CLUSTER,
    Action,
    ActionEnded,
    Amounts,
    Capacity,
    Decision,
    Demand,
    Event,
    Grant,
    LeaseRecord,
    LeaseReleased,
    LinearView,
    NodeUp,
    Place,
    Resize,
    Resized,
    ResourceId,
    SandboxReady,
    Scheduler,
    Started,
    Submitted,
    Trajectory,
    TrajectoryOpened,
    WaitReason,
)
from tangram.scheduler.model import EMPTY
from tangram.scheduler.pool import ViewFactory

NODE = "node0"
CORES = ResourceId("cores", NODE)
MEMORY = ResourceId("memory", NODE)
SEARCH = ResourceId("quota:search")

D = TypeVar("D")


class ClosableView(LinearView):
    """A quota with a concurrency alone, which can be closed."""

    closed_until = float("-inf")

    def free(self, now: float) -> int:
        return super().free(now) if now >= self.closed_until else 0

    def next_change(self, now: float) -> float | None:
        return self.closed_until if now < self.closed_until else None

    def why_short(self, amount: int, now: float) -> WaitReason:
        return WaitReason.QUOTA_CLOSED if now < self.closed_until else WaitReason.QUOTA

    def close(self, until: float) -> None:
        self.closed_until = max(self.closed_until, until)


def machine(cores: int = 4, memory: int = 100, node: str = NODE) -> tuple[Capacity, ...]:
    return (
        Capacity(ResourceId("cores", node), cores),
        Capacity(ResourceId("memory", node), memory),
    )


def quota(limit: int, name: str = "search") -> tuple[Capacity, ...]:
    return (Capacity(ResourceId(f"quota:{name}"), limit, "closable"),)


class Dialogue:
    """A scheduler, its clock, and everything that was said so far."""

    def __init__(self, views: Mapping[str, ViewFactory] = EMPTY, /, **options: Any) -> None:
        """`options` are the scheduler's: policy, order, weights, limits."""
        self.scheduler = Scheduler({"closable": ClosableView, **views}, **options)
        self.now = 0.0
        self.said: list[tuple[float, Event, list[Decision]]] = []
        self.tokens: dict[str, int] = {}
        """Of the last Grant or Place of each id."""
        self.changes: dict[str, int] = {}
        """Of the last Resize of each action."""
        self._epochs: dict[str, int] = {}

    def tell(self, *events: Event, at: float | None = None) -> list[Decision]:
        """The decisions of all events, in order."""
        self.now = self.now if at is None else at
        decisions: list[Decision] = []
        for event in events:
            decided = self.scheduler.handle(event, self.now)
            self.scheduler.check_invariants()
            self.said.append((self.now, event, decided))
            decisions += decided
        for decision in decisions:
            if isinstance(decision, Grant):
                self.tokens[decision.action] = decision.token
            if isinstance(decision, Place):
                self.tokens[decision.trajectory] = decision.token
            if isinstance(decision, Resize):
                self.changes[decision.action] = decision.change
        return decisions

    def join(
        self,
        node: str = NODE,
        capacities: tuple[Capacity, ...] | None = None,
        leases: Iterable[LeaseRecord] = (),
    ) -> list[Decision]:
        epoch = self._epochs[node] = self._epochs.get(node, 0) + 1
        offered = machine(node=node) if capacities is None else capacities
        return self.tell(NodeUp(node, epoch, offered, tuple(leases)))

    def join_quota(self, limit: int) -> list[Decision]:
        return self.join(CLUSTER, quota(limit))

    def open(
        self,
        name: str,
        memory: int = 1,
        concurrency: int = 1,
        priority: int = 0,
        *,
        task: str = "task",
        **fields: Any,
    ) -> list[Decision]:
        reserve = {"memory": memory} if memory else {}
        trajectory = Trajectory(name, task, reserve, concurrency, priority, **fields)
        return self.tell(TrajectoryOpened(trajectory))

    def ready(self, *names: str) -> list[Decision]:
        return self.tell(*(SandboxReady(name, self.tokens[name]) for name in names))

    def settle(self, *names: str, concurrency: int = 1) -> None:
        """Open trajectories whose sandboxes are ready at once."""
        for name in names:
            self.open(name, concurrency=concurrency)
            self.ready(name)

    def exec(
        self,
        name: str,
        trajectory: str,
        cores: int | Amounts = 1,
        *,
        search: int = 0,
        task: str = "task",
        **fields: Any,
    ) -> list[Decision]:
        amounts = cores if isinstance(cores, Amounts) else Amounts.exactly(cores)
        cluster = {"quota:search": Amounts.exactly(search)} if search else {}
        demand = Demand({"cores": amounts}, cluster, key="cores")
        return self.tell(Submitted(Action(name, task, demand, trajectory, **fields)))

    def call(
        self, name: str, amount: int | Amounts = 1, *, task: str = "task", **fields: Any
    ) -> list[Decision]:
        amounts = amount if isinstance(amount, Amounts) else Amounts.exactly(amount)
        demand = Demand(cluster={"quota:search": amounts}, key="quota:search")
        action = Action(name, task, demand, kind="call", **fields)
        return self.tell(Submitted(action))

    def start(self, *names: str) -> list[Decision]:
        return self.tell(*(Started(name, self.tokens[name]) for name in names))

    def finish(self, *names: str) -> list[Decision]:
        """Granted actions start, end and are released."""
        decisions: list[Decision] = []
        for name in names:
            token = self.tokens[name]
            decisions += self.tell(
                Started(name, token), ActionEnded(name, token), LeaseReleased(name, token)
            )
        return decisions

    def resized(self, name: str, cores: int) -> list[Decision]:
        """The answer to the last Resize of an action."""
        return self.tell(Resized(name, self.tokens[name], {CORES: cores}, self.changes[name]))

    def reason(self, name: str) -> WaitReason | None:
        return self.scheduler.explain(name, self.now).reason

    def free(self, resource: ResourceId = CORES) -> int:
        return self.scheduler.view(resource).free(self.now)


def granted(decisions: Iterable[Decision]) -> list[str]:
    return [decision.action for decision in decisions if isinstance(decision, Grant)]


def only(decisions: list[Decision], kind: type[D]) -> D:
    """The single decision, which is of this kind."""
    (decision,) = decisions
    assert isinstance(decision, kind)
    return decision
