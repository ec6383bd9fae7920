"""Each of these was a bug of the scheduler that fault injection found (`simulator/test_faults`), told
in as few events as show it."""

from __future__ import annotations

import pytest

from tangram.managers.gpu.view import CHUNKS_VIEW, ChunksView
from tangram.managers.quota import QUOTA_VIEW, QuotaView
from tangram.scheduler import (
    CLUSTER,
    Action,
    Amounts,
    Capacity,
    Demand,
    End,
    Grant,
    Kill,
    LeaseRecord,
    LeaseReleased,
    NodeDown,
    NodeUp,
    Place,
    Profile,
    Resized,
    ResizeRequested,
    ResourceId,
    SandboxReady,
    Scheduler,
    Started,
    Submitted,
    Tick,
    Trajectory,
    TrajectoryClosed,
    TrajectoryOpened,
    WaitReason,
)

from .dialogue import CORES, NODE, SEARCH, Dialogue, granted, machine, quota

GPUS = ResourceId("gpus")


def ends(decisions: list[object]) -> list[str]:
    return [decision.action for decision in decisions if isinstance(decision, End)]


def kills(decisions: list[object]) -> list[str]:
    return [decision.action for decision in decisions if isinstance(decision, Kill)]


def test_cores_are_not_free_when_the_quota_beside_them_is_lost(node: Dialogue) -> None:
    node.join_quota(1)
    node.settle("t", "u")
    node.exec("both", "t", 4, search=1)
    node.start("both")
    decisions = node.join(CLUSTER, quota(1))
    assert (ends(list(decisions)), kills(list(decisions))) == (["both"], ["both"])
    node.exec("next", "u", 4)
    assert node.free() == 0
    assert granted(node.tell(LeaseReleased("both", node.tokens["both"]))) == ["next"]


def test_a_call_of_a_lost_trajectory_is_killed_before_its_quota_is_free(node: Dialogue) -> None:
    node.join_quota(1)
    node.settle("t")
    node.call("a", trajectory="t")
    node.start("a")
    node.call("b")
    decisions = node.tell(NodeDown(NODE, 1))
    assert (ends(list(decisions)), kills(list(decisions))) == (["a"], ["a"])
    assert granted(decisions) == []
    assert granted(node.tell(LeaseReleased("a", node.tokens["a"]))) == ["b"]


def test_a_lease_that_does_not_fit_is_killed_though_its_action_has_ended(node: Dialogue) -> None:
    node.join_quota(1)
    node.settle("t")
    node.exec("a", "t", 2, search=1)
    token = node.tokens["a"]
    action = Action(
        "a",
        "task",
        Demand({"cores": Amounts.exactly(2)}, {"quota:search": Amounts.exactly(1)}, "cores"),
        "t",
    )
    node.tell(NodeDown(NODE, 1))
    node.call("b")
    lease = LeaseRecord(action, token, NODE, {CORES: 2, SEARCH: 1})
    decisions = node.tell(NodeUp(NODE, 2, machine(), (lease,)))
    assert kills(list(decisions)) == ["a"]
    assert node.free() == 2


def test_of_a_line_all_that_its_node_cannot_serve_are_refused(talk: Dialogue) -> None:
    talk.join("large", machine(cores=8, memory=4, node="large"))
    talk.open("other", memory=2)
    talk.tell(TrajectoryOpened(Trajectory("t", "task", {"memory": 3}, sandboxed=False)))
    for name, cores in (("first", 8), ("second", 6), ("third", 1)):
        talk.exec(name, "t", cores)
    decisions = talk.join("small", machine(cores=4, node="small"))
    assert (ends(list(decisions)), granted(decisions)) == (["first", "second"], ["third"])


@pytest.mark.parametrize("first", ["node", "trajectory"])
def test_after_a_restart_a_trajectory_lives_where_its_lease_is(first: str) -> None:
    talk = Dialogue(last_token=7)
    trajectory = Trajectory("t", "task", {"memory": 1})
    action = Action("a", "task", Demand({"cores": Amounts.exactly(1)}), "t")
    lease = LeaseRecord(action, 3, "small", {ResourceId("cores", "small"): 1})
    small = machine(memory=10, node="small")
    if first == "trajectory":
        talk.tell(TrajectoryOpened(trajectory))
        decisions = talk.join("small", small, [lease])
    else:
        talk.join("roomy", machine(memory=1000, node="roomy"))
        talk.join("small", small, [lease])
        decisions = talk.tell(TrajectoryOpened(trajectory))
    assert decisions == [Place("t", "small", 8)]
    talk.tell(SandboxReady("t", 8))
    talk.exec("b", "t")
    assert talk.free(ResourceId("cores", "small")) == 3, "its only slot is taken"
    assert ends(list(talk.tell(TrajectoryClosed("t")))) == ["a", "b"]


def test_tokens_of_the_scheduler_before_are_not_given_out_again() -> None:
    talk = Dialogue(last_token=41)
    talk.join_quota(1)
    assert talk.call("a") == [Grant("a", CLUSTER, 42, {SEARCH: 1})]


def test_the_answer_to_an_earlier_resize_come_twice_frees_nothing(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t", Amounts.between(1, 4))
    node.start("a")
    token = node.tokens["a"]
    node.tell(ResizeRequested("a", {CORES: 2}))
    first = node.changes["a"]
    node.resized("a", 2)
    node.tell(ResizeRequested("a", {CORES: 1}))
    node.resized("a", 1)
    node.tell(ResizeRequested("a", {CORES: 4}))
    node.tell(Resized("a", token, {CORES: 2}, first))
    assert node.free() == 0
    node.resized("a", 4)
    assert node.free() == 0


def test_a_resize_that_a_restarted_node_never_got_holds_up_no_later_one(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t", Amounts.between(1, 4))
    node.start("a")
    node.tell(ResizeRequested("a", {CORES: 3}))
    demand = Demand({"cores": Amounts.between(1, 4)}, key="cores")
    action = Action("a", "task", demand, "t")
    node.join(leases=[LeaseRecord(action, node.tokens["a"], NODE, {CORES: 1})])
    assert node.free() == 3
    assert node.tell(ResizeRequested("a", {CORES: 2})) != []


def test_gpus_that_no_chunk_serves_are_not_asked_for() -> None:
    scheduler = Scheduler({CHUNKS_VIEW: ChunksView}, "elastic")
    shape = {"nodes": 1, "per_node": 8}
    scheduler.handle(NodeUp(CLUSTER, 1, (Capacity(GPUS, 8, CHUNKS_VIEW, shape),)), 0.0)
    demand = Demand(cluster={"gpus": Amounts.among([1, 4])}, key="gpus")
    action = Action("a", "task", demand, kind="call")
    grants = scheduler.handle(Submitted(action), 0.0)
    scheduler.handle(Started("a", 1), 0.0)
    assert [type(decision) for decision in grants] == [Grant]
    assert scheduler.handle(ResizeRequested("a", {GPUS: 4}), 1.0) == []
    scheduler.check_invariants()


def test_a_quota_that_is_offered_no_more_keeps_what_is_held_of_it() -> None:
    judge = ResourceId("quota:judge")
    scheduler = Scheduler({QUOTA_VIEW: QuotaView})
    limits = {"concurrency": 2, "windows": ((5, 60.0),)}
    offered = (Capacity(judge, 2, QUOTA_VIEW, limits),)
    scheduler.handle(NodeUp(CLUSTER, 1, offered), 0.0)
    action = Action("a", "task", Demand(cluster={"quota:judge": Amounts.exactly(1)}), kind="call")
    scheduler.handle(Submitted(action), 0.0)
    lease = LeaseRecord(action, 1, CLUSTER, {judge: 1})
    assert scheduler.handle(NodeUp(CLUSTER, 2, (), (lease,)), 1.0) == []
    assert (scheduler.view(judge).taken, scheduler.view(judge).free(1.0)) == (1, 0)
    scheduler.check_invariants()


def test_the_end_of_an_action_is_predicted_at_its_key_resource_alone() -> None:
    talk = Dialogue(policy="elastic")
    talk.join()
    talk.join_quota(4)
    talk.settle("t")
    known = Profile(5.0, serial=0.0)
    search = Demand(cluster={"quota:search": Amounts.between(1, 2)}, key="quota:search")
    talk.tell(Submitted(Action("call", "task", search, kind="call", profile=known)))
    talk.exec("both", "t", Amounts.between(1, 2), search=1, profile=known)
    talk.finish("both")
    talk.finish("call")


def test_whom_a_limit_holds_back_is_not_waited_for() -> None:
    talk = Dialogue(policy="elastic", limits={"red": {"cores": 4}})
    talk.join()
    talk.settle("t", "u", "v")
    talk.exec("runs", "v", 4)
    talk.start("runs")
    demand = {"cores": Amounts.exactly(3)}
    talk.tell(Submitted(Action("later", "red", Demand(demand, key="cores"), "t", priority=-1)))
    wide = Demand({"cores": Amounts.among([4, 5])}, key="cores")
    known = Profile(9.0, serial=0.0)
    talk.tell(Submitted(Action("first", "red", wide, "u", profile=known, malleable=True)))
    assert talk.reason("later") is WaitReason.TASK_LIMIT
    started = granted(talk.finish("runs"))
    for second in range(1, 200):
        started += granted(talk.tell(Tick(), at=float(second)))
    assert started == ["first"]


def test_a_lease_of_a_quota_that_is_offered_no_more_is_lost_with_its_node() -> None:
    talk = Dialogue(last_token=9)
    action = Action("a", "task", Demand(cluster={"quota:search": Amounts.exactly(1)}), kind="call")
    talk.join(CLUSTER, (), [LeaseRecord(action, 3, CLUSTER, {SEARCH: 1})])
    assert ends(list(talk.join(CLUSTER, ()))) == ["a"]
