"""What one seed draws: the faults that can happen, nodes, quotas, GPUs, trajectories, actions.

Swarm testing (Groce et al., ISSTA 2012): each seed enables a random half of the faults, since some
bugs show only where other faults are absent. Data and its drawing alone; nothing happens here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random

from ...model import (
    CORES,
    EMPTY,
    MEMORY,
    QUOTA_PREFIX,
    Action,
    Amounts,
    Capacity,
    Demand,
    Profile,
    ResourceId,
    Trajectory,
)
from ..actions import GPUS
from ..simulation import GPU_VIEW, QUOTA_VIEW

MESSAGE_FAULTS = (
    "late",
    "duplicated",
    "action_fails",
    "sandbox_fails",
    "slow_kill",
    "resize_refused",
    "deadline",
)
"""They befall single messages and answers."""

EVENT_FAULTS = (
    "crash",
    "partition",
    "flap",
    "sandbox_dies",
    "lease_lost",
    "cancel",
    "cancel_group",
    "close_early",
    "quota_closes",
    "resize",
    "restart",
    "capacity",
    "nonsense",
    "forget",
)
"""They happen at moments of their own."""

FAULTS_END_S = 60.0
"""Nothing bad begins later: from then on everything has to come to its end."""

POLICIES = ("fcfs", "fixed:2", "backfill:2", "unlimited:2", "arl-tangram", "elastic", "elastic")

ORDERS = ("first-come", "first-come", "priority:ageing=20", "fair-share", "group:ageing=20")

TASKS = ("red", "blue")


@dataclass(frozen=True, slots=True)
class Odds:
    """Which faults can happen in one run. Each number is a probability per occasion, from 0 to 1;
    a fault that is not named never happens."""

    of: Mapping[str, float]
    mischief_every_s: float
    """Mean time between two events of EVENT_FAULTS."""

    def __getitem__(self, fault: str) -> float:
        return self.of.get(fault, 0.0)


@dataclass(frozen=True, slots=True)
class Work:
    """One action to come and how long it really runs, in seconds with one unit."""

    action: Action
    gap_s: float
    run_s: float


@dataclass(slots=True)
class Caller:
    """A trajectory, or who calls without one (`trajectory` is None), and what it will ask for."""

    trajectory: Trajectory | None
    start_s: float
    width: int
    """How many of its actions it wants under way at once."""
    works: list[Work] = field(default_factory=list)
    group: str = ""


@dataclass(slots=True)
class World:
    """All of it. `offers` maps each node, and CLUSTER, to its capacities."""

    policy: str
    order: str
    limits: Mapping[str, Mapping[str, int]]
    """Of tasks, by kind of unit; usually none."""
    odds: Odds
    offers: dict[str, tuple[Capacity, ...]]
    callers: list[Caller]


def draw(random: Random, views: Collection[str], most_callers: int, policy: str | None) -> World:
    """`views` are names of resource views that the scheduler will know beside "linear"."""
    offers = _offers(random, views)
    odds = _odds(random)
    callers = _callers(random, offers, random.choice((2, most_callers // 2, most_callers)))
    drawn, order, limits = random.choice(POLICIES), random.choice(ORDERS), _limits(random)
    return World(policy or drawn, order, limits, odds, offers, callers)


def _limits(random: Random) -> dict[str, dict[str, int]]:
    if random.random() < 0.7:
        return {}
    limits = {"*": {CORES: random.randint(2, 8)}}
    if random.random() < 0.5:
        limits["red"] = {GPUS: random.randint(1, 8), QUOTA_PREFIX + "search": random.randint(1, 3)}
    return limits


def _odds(random: Random) -> Odds:
    drawn = {f: random.choice((0.02, 0.1, 0.4)) for f in MESSAGE_FAULTS if random.random() < 0.5}
    drawn |= {f: random.choice((0.1, 0.5)) for f in EVENT_FAULTS if random.random() < 0.5}
    if "resize" in drawn:
        drawn["resize"] = 1.0  # it needs several in a row to matter
    return Odds(drawn, random.choice((0.5, 2.0, 8.0)))


def _offers(random: Random, views: Collection[str]) -> dict[str, tuple[Capacity, ...]]:
    offers: dict[str, tuple[Capacity, ...]] = {}
    for number in range(random.randint(1, 3)):
        node = f"n{number}"
        cores, memory = random.randint(1, 8), random.choice((4, 8, 100))
        offers[node] = (
            Capacity(ResourceId(CORES, node), cores),
            Capacity(ResourceId(MEMORY, node), memory),
        )
    shared = [Capacity(ResourceId(QUOTA_PREFIX + "search"), random.randint(1, 4))]
    if QUOTA_VIEW in views:
        limits = {
            "concurrency": random.choice((2, 4, None)),
            "windows": ((random.randint(4, 6), 3.0),),
        }
        shared.append(Capacity(ResourceId(QUOTA_PREFIX + "judge"), 4, QUOTA_VIEW, limits))
    if GPU_VIEW in views:
        shape = {"nodes": random.randint(1, 2), "per_node": random.choice((1, 4, 8))}
        total = shape["nodes"] * shape["per_node"]
        shared.append(Capacity(ResourceId(GPUS), total, GPU_VIEW, shape))
    offers[""] = tuple(shared)
    return offers


def _callers(random: Random, offers: dict[str, tuple[Capacity, ...]], count: int) -> list[Caller]:
    kinds = [capacity.resource.kind for capacity in offers[""]]
    elastic, crowded = random.random() < 0.8, random.random() < 0.5
    callers: list[Caller] = []
    for number in range(count):
        alone = random.random() < 0.15
        group, task = f"g{number % 3}", random.choice(TASKS)
        trajectory = None
        if not alone:
            memory = random.choice((0, 1, 2, 4, 101 if random.random() < 0.1 else 3))
            trajectory = Trajectory(
                f"t{number}",
                task,
                {MEMORY: memory} if memory else EMPTY,
                random.randint(1, 3),
                random.choice((0, 0, 0, 1)),
                group,
                number // 4,
                sandboxed=random.random() < 0.9,
            )
        start_s = random.uniform(0, 5.0 if crowded else FAULTS_END_S / 3)
        caller = Caller(trajectory, start_s, random.randint(1, 4), group=group)
        for index in range(random.randint(1, 6)):
            name = f"{trajectory.id if trajectory else f'c{number}'}/{index}"
            caller.works.append(_work(random, name, task, caller, kinds, elastic))
        callers.append(caller)
    return callers


def _work(
    random: Random, name: str, task: str, caller: Caller, kinds: list[str], elastic: bool
) -> Work:
    per_node: dict[str, Amounts] = {}
    cluster: dict[str, Amounts] = {}
    boxed = caller.trajectory is not None and random.random() < 0.7
    if boxed:
        per_node[CORES] = _amounts(random, elastic, 10 if random.random() < 0.05 else 4)
    if not boxed or random.random() < 0.25:
        kind = random.choice(kinds)
        cluster[kind] = _amounts(random, elastic, 8 if kind == GPUS else 2)
        if random.random() < 0.2:
            cluster[random.choice(kinds)] = Amounts.exactly(1)
    key = (
        next(iter(per_node or cluster))
        if random.random() < 0.7
        else random.choice([*cluster, None])
    )
    run_s = random.choice((0.0, random.expovariate(1.0), *(random.expovariate(0.05),) * 3))
    profile = Profile()
    if random.random() < 0.85:
        profile = Profile(run_s * random.choice((1.0, 0.2, 5.0)), serial=random.choice((0.0, 0.1)))
    action = Action(
        name,
        task,
        Demand(per_node, cluster, key),
        caller.trajectory.id if caller.trajectory else None,
        "exec" if boxed else "call",
        random.choice((0, 0, 0, 2, -1)),
        None,
        random.choice((None, None, None, random.expovariate(0.1) + 0.01)),
        profile,
        caller.group,
        malleable=random.random() < 0.7,
    )
    return Work(action, random.choice((0.0, random.expovariate(1.0))), run_s)


def _amounts(random: Random, elastic: bool, most: int) -> Amounts:
    low = random.randint(1, most)
    if not elastic or random.random() < 0.4:
        return Amounts.exactly(low)
    if random.random() < 0.5:
        return Amounts.between(low, low + random.randint(0, 4))
    return Amounts.among({low, low + 1, 2 * low, 4 * low})
