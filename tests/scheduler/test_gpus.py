"""Actions on GPUs: what starts in one pass fits on chunks, reservations leave chunks whole, services
that are ready go first; random histories with a quota beside the GPUs, judged from outside."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.gpu import CHUNKS_VIEW, ChunksView
from tangram.scheduler import (
    CLUSTER,
    Action,
    ActionEnded,
    Amounts,
    Capacity,
    Decision,
    Demand,
    Grant,
    LeaseReleased,
    LinearView,
    NodeUp,
    Profile,
    ResourceId,
    Scheduler,
    Started,
    State,
    Submitted,
    Tick,
)

GPUS = ResourceId("gpus")
SEARCH = ResourceId("quota:search")
SEARCHES = 3
POLICIES = ("fcfs", "fixed:4", "backfill:2", "arl-tangram", "elastic")
ANY = Amounts.among([1, 2, 4, 8])
RESTORES_S = {"rm": {1: 2.0, 4: 1.0}, "judge": {1: 3.0}}


@dataclass
class Cluster:
    """A scheduler over chunks of GPUs and a quota; keeps who holds what."""

    policy: str
    nodes: int = 2
    now: float = 0.0
    held: dict[str, Grant] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """Granted actions, in the order of their grants."""

    def __post_init__(self) -> None:
        self.scheduler = Scheduler({CHUNKS_VIEW: ChunksView}, self.policy)
        shape = {"nodes": self.nodes, "per_node": 8, "restore_s": RESTORES_S}
        gpus = Capacity(GPUS, 8 * self.nodes, CHUNKS_VIEW, shape)
        self.follow(NodeUp(CLUSTER, 1, (gpus, Capacity(SEARCH, SEARCHES))))

    def follow(self, *events: object) -> None:
        for event in events:
            decisions: list[Decision] = self.scheduler.handle(event, self.now)  # type: ignore[arg-type]
            self.scheduler.check_invariants()
            for decision in decisions:
                if isinstance(decision, Grant):
                    assert decision.action not in self.held
                    self.held[decision.action] = decision
                    self.order.append(decision.action)
            self.check()

    def score(
        self,
        name: str,
        gpus: int | Amounts = ANY,
        seconds: float = 10.0,
        service: str = "",
        searches: int = 0,
    ) -> None:
        amounts = Amounts.exactly(gpus) if isinstance(gpus, int) else gpus
        cluster = {"gpus": amounts} if amounts else {}
        if searches:
            cluster["quota:search"] = Amounts.exactly(searches)
        action = Action(
            name,
            "task",
            Demand(cluster=cluster, key="gpus"),
            kind="score",
            profile=Profile(seconds, serial=0.05),
            service=service,
        )
        self.follow(Submitted(action))

    def finish(self, name: str) -> None:
        token = self.held.pop(name).token
        self.follow(Started(name, token), ActionEnded(name, token), LeaseReleased(name, token))

    def check(self) -> None:
        """No GPU is held twice, every chunk is aligned and large enough, the quota holds."""
        view = self.scheduler.view(GPUS)
        assert isinstance(view, ChunksView)
        used: list[tuple[int, int]] = []
        for grant in self.held.values():
            if GPUS in grant.amounts:
                chunk = view.held(grant.token).chunk
                assert chunk.size // 2 < grant.amounts[GPUS] <= chunk.size
                assert chunk.start % chunk.size == 0
                used += [(chunk.node, gpu) for gpu in chunk.gpus]
        assert len(used) == len(set(used)) <= 8 * self.nodes
        assert sum(grant.amounts.get(SEARCH, 0) for grant in self.held.values()) <= SEARCHES

    def units(self) -> dict[str, int]:
        return {name: grant.amounts[GPUS] for name, grant in self.held.items()}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_starts_in_one_pass_fits_on_the_chunks_that_are_free(policy: str) -> None:
    """A four and a two are free, and a one: seven in all, but no chunk of eight."""
    cluster = Cluster(policy, nodes=1)
    cluster.score("blocker", 8)
    cluster.score("small", 1)
    for index in range(6):
        cluster.score(f"a{index}", Amounts.among([2, 4]), seconds=100.0 + index)
    cluster.finish("blocker")
    assert cluster.units()["small"] == 1
    assert sum(units for name, units in cluster.units().items() if name != "small") <= 6
    assert len(cluster.held) >= 2


def test_free_gpus_that_no_chunk_offers_are_not_granted() -> None:
    """Six are free on a node, in a four and a two: who needs eight waits for the other two."""
    cluster = Cluster("elastic", nodes=1)
    cluster.score("pair", 2)
    cluster.score("whole", Amounts.among([8]))
    cluster.score("five", Amounts.among([5, 6]))
    assert list(cluster.held) == ["pair"]
    cluster.finish("pair")
    assert cluster.order == ["pair", "whole"]


def test_a_reservation_keeps_a_chunk_and_not_a_number_of_gpus() -> None:
    """One of eight is free. For five GPUs all of it has to be kept, though three would be left."""
    view = ChunksView(Capacity(GPUS, 8, CHUNKS_VIEW, {"nodes": 1, "per_node": 8}))
    assert view.operator(0.0).beside([5]).most == 0
    assert view.operator(0.0).beside([4]).most == 4
    assert view.operator(0.0).beside([8, 1]).most == 0


def test_who_finds_its_service_ready_goes_before_who_would_restore_its_own() -> None:
    cluster = Cluster("elastic", nodes=1)
    cluster.score("first", 8, service="judge")
    cluster.score("other", Amounts.among([4, 8]), 10.0, service="rm")
    cluster.score("same", Amounts.among([4, 8]), 10.1, service="judge")
    cluster.finish("first")
    assert cluster.order[:2] == ["first", "same"]
    view = cluster.scheduler.view(GPUS)
    assert isinstance(view, ChunksView)
    assert view.preparing_s(cluster.held["same"].token) == 0


def test_a_restore_does_not_hold_back_who_is_much_shorter() -> None:
    cluster = Cluster("elastic", nodes=1)
    cluster.score("first", 8, service="judge")
    cluster.score("short", Amounts.among([4, 8]), 1.0, service="rm")
    cluster.score("same", Amounts.among([4, 8]), 100.0, service="judge")
    cluster.finish("first")
    assert cluster.order[1] == "short"


def test_the_predicted_end_counts_the_restore() -> None:
    """A second of restoring, then the run: who waits is looked at again then."""
    cluster = Cluster("elastic", nodes=1)
    eight = Amounts.among([8, 16])
    cluster.score("holder", eight, 80.0, service="rm")
    cluster.score("waits", eight, 1.0, service="rm")
    assert cluster.units() == {"holder": 8}
    run_s = Profile(80.0, serial=0.05).run_s(8)
    assert run_s is not None
    assert cluster.scheduler.next_wakeup(0.0) == pytest.approx(run_s + 1.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_who_needs_gpus_and_a_quota_gets_both_or_nothing(policy: str) -> None:
    cluster = Cluster(policy, nodes=1)
    cluster.score("a", 4, searches=2)
    cluster.score("b", 4, searches=2)
    cluster.score("c", 4)
    assert set(cluster.held) == {"a", "c"}
    cluster.finish("a")
    assert set(cluster.held) == {"b", "c"}
    assert dict(cluster.held["b"].amounts) == {GPUS: 4, SEARCH: 2}


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_random_histories_grant_no_gpu_twice_and_everything_ends(policy: str, seed: int) -> None:
    chance = random.Random(seed)
    cluster = Cluster(policy, nodes=chance.choice([1, 2]))
    submitted = 0
    for _ in range(60):
        cluster.now += chance.expovariate(1.0)
        if chance.random() < 0.6:
            gpus = Amounts.among(chance.sample([1, 2, 3, 4, 5, 8], chance.randint(1, 4)))
            service = chance.choice(["", "rm", "judge", "unknown"])
            searches = chance.choice([0, 0, 1, 2, 3])
            cluster.score(f"a{submitted}", gpus, chance.lognormvariate(1, 1), service, searches)
            submitted += 1
        elif cluster.held:
            cluster.finish(chance.choice(sorted(cluster.held)))
        wake = cluster.scheduler.next_wakeup(cluster.now)
        if wake is not None and wake <= cluster.now:
            cluster.follow(Tick())
    while cluster.held or cluster.scheduler.waiting():
        wake = cluster.scheduler.next_wakeup(cluster.now)
        assert cluster.held or wake is not None, "actions wait, and nothing will ever happen"
        if wake is not None and (not cluster.held or chance.random() < 0.5):
            cluster.now = max(cluster.now, wake)
            cluster.follow(Tick())
        elif cluster.held:
            cluster.finish(next(iter(cluster.held)))
    assert len(cluster.order) == submitted
    for index in range(submitted):
        assert cluster.scheduler.explain(f"a{index}", cluster.now).state is State.FINISHED
    assert cluster.scheduler.view(GPUS).taken == 0
    assert isinstance(cluster.scheduler.view(SEARCH), LinearView)
    assert cluster.scheduler.view(SEARCH).taken == 0


class Asked(ChunksView):
    """Counts how often it is asked what would have to be prepared where another runs now."""

    asked = 0

    def prepare_after_s(self, tag: str, amount: int, token: int) -> float:
        Asked.asked += 1
        return super().prepare_after_s(tag, amount, token)


def test_a_pass_asks_once_what_a_service_would_have_to_prepare_on_a_holders_gpus() -> None:
    """One chunk comes free, and everybody would rather wait for those that have its service."""
    scheduler, amounts = Scheduler({CHUNKS_VIEW: Asked}, "elastic"), [1, 2]
    shape = {"nodes": 2, "per_node": 8, "restore_s": {"rm": {1: 4e3, 2: 4e3}}}
    scheduler.handle(NodeUp(CLUSTER, 1, (Capacity(GPUS, 16, CHUNKS_VIEW, shape),)), 0.0)
    tokens: dict[str, int] = {}
    for index in range(200):
        demand = Demand(cluster={"gpus": Amounts.among(amounts)}, key="gpus")
        name, service = f"a{index}", "rm" if index else "another"
        known = Profile(10.0, serial=0.5)
        action = Action(name, "task", demand, kind="score", profile=known, service=service)
        for decision in scheduler.handle(Submitted(action), 0.0):
            assert isinstance(decision, Grant)
            tokens[decision.action] = decision.token
    Asked.asked = 0
    scheduler.handle(LeaseReleased("a0", tokens["a0"]), 1.0)
    assert 0 < Asked.asked <= len(amounts) * len(tokens), "though nearly 200 wait"
