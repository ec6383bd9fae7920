"""Nodes that join, come back and go, with the leases that they hold."""

from __future__ import annotations

from typing import Any

import pytest

from tangram.managers.gpu import CHUNKS_VIEW, ChunksView
from tangram.scheduler import (
    CLUSTER,
    Action,
    Amounts,
    CancelRequested,
    Capacity,
    Demand,
    End,
    EndReason,
    Grant,
    Kill,
    LeaseRecord,
    LeaseReleased,
    NodeDown,
    NodeUp,
    Place,
    ResourceId,
    State,
    Submitted,
    Tick,
    WaitReason,
)

from .dialogue import CORES, MEMORY, NODE, SEARCH, Dialogue, granted, machine, only, quota


def lease(name: str, token: int, cores: int = 1, trajectory: str | None = "t") -> LeaseRecord:
    demand = Demand({"cores": Amounts.exactly(cores)}, key="cores")
    return LeaseRecord(Action(name, "task", demand, trajectory), token, NODE, {CORES: cores})


def test_a_node_that_goes_fails_all_that_was_on_it_and_nothing_else(talk: Dialogue) -> None:
    talk.join("n0", machine(node="n0"))
    talk.join("n1", machine(node="n1"))
    talk.settle("t", "u")
    for name, trajectory in (("a", "t"), ("b", "t"), ("c", "u")):
        talk.exec(name, trajectory)
    decisions = talk.tell(NodeDown("n0", 1))
    assert decisions == [
        End(name, State.FAILED, EndReason.LOST, "node n0 is gone") for name in ("a", "b")
    ]
    assert talk.scheduler.resources() == (ResourceId("cores", "n1"), ResourceId("memory", "n1"))
    assert talk.reason("c") is None
    assert only(talk.exec("late", "t"), End).reason is EndReason.LOST


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_event_of_another_epoch_is_dropped(node: Dialogue, epoch: int) -> None:
    node.settle("t")
    assert node.tell(NodeDown(NODE, epoch), NodeUp(NODE, 1, machine(cores=9))) == []
    assert (node.scheduler.stale, node.free()) == (2, 4)


def test_a_quota_held_by_a_lost_action_is_free_again(node: Dialogue) -> None:
    node.join_quota(1)
    node.settle("t")
    node.exec("a", "t", search=1)
    node.call("b")
    assert granted(node.tell(NodeDown(NODE, 1))) == ["b"]


def test_trajectories_wait_while_no_node_is_there_and_go_to_the_one_that_comes(
    node: Dialogue,
) -> None:
    node.tell(NodeDown(NODE, 1))
    node.open("t")
    node.exec("a", "t")
    assert node.reason("a") is WaitReason.NO_NODE
    place = only(node.join(), Place)
    assert place.trajectory == "t"


def test_a_node_that_joins_again_keeps_what_it_lists_and_loses_the_rest(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t")
    node.exec("b", "u")
    node.exec("next", "t")
    decisions = node.join(leases=[lease("a", node.tokens["a"])])
    assert [(d.action, d.reason) for d in decisions if isinstance(d, End)] == [
        ("b", EndReason.LOST)
    ]
    assert node.free() == 3
    assert node.scheduler.node_of("t") == NODE
    assert granted(node.finish("a")) == ["next"]


def test_an_unknown_lease_is_adopted_before_anything_is_granted(talk: Dialogue) -> None:
    talk.open("t")
    talk.exec("waits", "t", 4)
    talk.join(leases=[lease("old", 41, 3, trajectory=None)])
    assert talk.scheduler.explain("old", 0.0).state is State.RUNNING
    talk.ready("t")
    assert talk.reason("waits") is WaitReason.CORES
    assert talk.tokens["t"] > 41
    assert granted(talk.tell(LeaseReleased("old", 41))) == ["waits"]


def test_a_waiting_action_that_a_node_runs_already_is_not_granted_again(talk: Dialogue) -> None:
    talk.open("t")
    talk.exec("a", "t")
    decisions = talk.join(leases=[lease("a", 7)])
    assert granted(decisions) == []
    assert talk.scheduler.explain("a", 0.0).state is State.RUNNING


def test_a_lease_whose_action_ended_meanwhile_is_killed(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t")
    token = node.tokens["a"]
    node.tell(NodeDown(NODE, 1))
    assert node.join(leases=[lease("a", token)]) == [Kill("a", NODE, token)]
    assert node.free() == 3
    node.tell(LeaseReleased("a", token))
    assert node.free() == 4


def test_a_cancelled_action_that_survives_its_node_is_killed_again(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    token = node.tokens["a"]
    node.tell(CancelRequested("a"))
    assert node.join(leases=[lease("a", token)]) == [Kill("a", NODE, token)]


def test_a_lease_larger_than_its_node_is_ended(talk: Dialogue) -> None:
    decisions = talk.join(leases=[lease("a", 5, cores=9, trajectory=None)])
    assert [type(d) for d in decisions] == [End, Kill]
    talk.tell(LeaseReleased("a", 5))


def test_a_node_that_comes_back_smaller_refuses_what_it_can_no_longer_meet(
    node: Dialogue,
) -> None:
    node.settle("t", "u")
    node.exec("a", "t", 2)
    node.open("v", concurrency=2)
    node.ready("v")
    node.exec("holds", "v", 1)
    node.exec("wants", "v", 4)
    assert node.reason("wants") is WaitReason.CORES
    leases = [lease("holds", node.tokens["holds"], trajectory="v")]
    decisions = node.join(capacities=machine(cores=3), leases=leases)
    assert [(d.action, d.reason) for d in decisions if isinstance(d, End)] == [
        ("a", EndReason.LOST),
        ("wants", EndReason.INFEASIBLE),
    ]


def test_a_resource_that_is_withdrawn_under_a_lease_stays_until_it_is_released(
    talk: Dialogue,
) -> None:
    talk.join_quota(1)
    talk.call("a")
    talk.call("b")
    kept = LeaseRecord(
        Action("a", "task", Demand(cluster={SEARCH.kind: Amounts.exactly(1)})),
        talk.tokens["a"],
        CLUSTER,
        {SEARCH: 1},
    )
    decisions = talk.join(CLUSTER, (), leases=[kept])
    assert only(decisions, End).action == "b"
    assert talk.scheduler.view(SEARCH).total == 0
    talk.finish("a")


def test_calls_wait_while_the_quotas_are_away(talk: Dialogue) -> None:
    talk.join_quota(1)
    talk.call("a")
    talk.call("b")
    lost = only(talk.tell(NodeDown(CLUSTER, 1)), End)
    assert (lost.action, lost.reason) == ("a", EndReason.LOST)
    assert talk.reason("b") is WaitReason.NO_NODE
    assert granted(talk.join_quota(1)) == ["b"]


@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        (Capacity(ResourceId("cores", "other"), 1), "cannot offer cores@other"),
        (Capacity(CORES, 1, view="chunks"), "known are closable, linear"),
    ],
)
def test_a_malformed_offer_raises_and_changes_nothing(
    node: Dialogue, capacity: Capacity, message: str
) -> None:
    node.settle("t")
    node.exec("a", "t")
    with pytest.raises(ValueError, match=message):
        node.join(capacities=(capacity,))
    node.scheduler.check_invariants()
    assert (node.free(), node.reason("a")) == (3, None)


def test_an_offer_that_a_view_refuses_loses_nobody() -> None:
    """The GPUs of a node are grouped by eight, and a new offer groups them by sixteen."""
    talk = Dialogue({CHUNKS_VIEW: ChunksView})
    gpus = ResourceId("gpus")
    offered = Capacity(gpus, 8, CHUNKS_VIEW, {"nodes": 1, "per_node": 8})
    talk.join(CLUSTER, (offered,))
    demand = Demand(cluster={"gpus": Amounts.exactly(2)}, key="gpus")
    talk.tell(Submitted(Action("a", "task", demand, kind="score")))
    other = Capacity(gpus, 16, CHUNKS_VIEW, {"nodes": 1, "per_node": 16})
    with pytest.raises(ValueError, match="8 GPUs"):
        talk.join(CLUSTER, (*quota(1), other))
    assert talk.scheduler.explain("a", talk.now).state is State.PREPARING
    assert talk.tell(Tick()) == [] and talk.scheduler.resources() == (gpus,)
    assert talk.free(gpus) == 4


@pytest.mark.parametrize("total", [-3, 2.5, float("nan"), True, (1 << 50) + 1])
def test_a_capacity_is_a_whole_number_of_units(total: Any) -> None:
    with pytest.raises(ValueError, match="total of cores@node0 is a whole number from 0 to"):
        Capacity(CORES, total)


def test_memory_is_whole_again_after_a_node_was_lost_and_came_back(node: Dialogue) -> None:
    node.settle("t", "u")
    node.tell(NodeDown(NODE, 1))
    node.join()
    assert node.free(MEMORY) == 100
    assert isinstance(only(node.open("v", memory=100), Place), Place)
    node.ready("v")
    assert isinstance(only(node.exec("a", "v", 4), Grant), Grant)
