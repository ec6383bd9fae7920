"""Trajectories: placement by memory, the gate of the sandbox, slots, closing and loss."""

from __future__ import annotations

import pytest

from tangram.scheduler import (
    ActionEnded,
    CancelRequested,
    End,
    EndReason,
    Grant,
    Kill,
    LeaseReleased,
    NodeDown,
    Place,
    SandboxLost,
    SandboxReady,
    State,
    Trajectory,
    TrajectoryClosed,
    TrajectoryOpened,
    TrajectoryReleased,
    WaitReason,
)

from .dialogue import MEMORY, Dialogue, granted, machine, only


def test_a_trajectory_goes_to_the_node_with_most_free_memory_ties_to_the_first(
    talk: Dialogue,
) -> None:
    for name in ("b", "a"):
        talk.join(name, machine(memory=100, node=name))
    places = [only(talk.open(name, memory=10), Place).node for name in ("t", "u", "v")]
    assert places == ["b", "a", "b"]
    assert [talk.scheduler.node_of(name) for name in ("t", "u", "v")] == places


def test_trajectories_wait_for_memory_in_order(node: Dialogue) -> None:
    node.open("t", memory=80)
    assert node.open("large", memory=60) == node.open("small", memory=10) == []
    node.exec("a", "small")
    assert node.reason("a") is WaitReason.MEMORY
    node.tell(TrajectoryClosed("t"))
    assert node.free(MEMORY) == 20, "its memory is taken until its sandbox is gone"
    placed = node.tell(TrajectoryReleased("t", node.tokens["t"]))
    assert [p.trajectory for p in placed if isinstance(p, Place)] == ["large", "small"]
    assert node.reason("a") is WaitReason.SANDBOX_STARTING


def test_one_that_gives_up_waiting_lets_the_next_one_in(node: Dialogue) -> None:
    node.open("t", memory=80)
    node.open("large", memory=60)
    node.open("small", memory=10)
    assert only(node.tell(TrajectoryClosed("large")), Place).trajectory == "small"


def test_a_reservation_that_no_node_can_hold_fails_its_actions_and_blocks_nobody(
    node: Dialogue,
) -> None:
    node.open("huge", memory=101)
    ended = only(node.exec("a", "huge"), End)
    assert ended.reason is EndReason.INFEASIBLE
    assert ended.message == (
        "its trajectory reserves 101 B of memory, but the most of a node is 100 B of memory"
    )
    assert node.scheduler.largest("memory") == 100
    assert isinstance(only(node.open("t"), Place), Place)
    larger = node.join("node1", machine(memory=200, node="node1"))
    assert only(larger, Place).trajectory == "huge"


def test_actions_wait_for_the_sandbox_and_run_when_it_is_ready(node: Dialogue) -> None:
    node.open("t")
    node.exec("a", "t")
    assert node.reason("a") is WaitReason.SANDBOX_STARTING
    assert node.tell(SandboxReady("t", 99)) == []
    assert node.scheduler.stale == 1
    assert granted(node.ready("t")) == ["a"]


def test_without_a_sandbox_actions_run_once_it_is_placed(node: Dialogue) -> None:
    node.tell(TrajectoryOpened(Trajectory("t", "task", sandboxed=False)))
    assert granted(node.exec("a", "t")) == ["a"]


def test_a_trajectory_runs_its_actions_one_by_one_as_submitted(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    node.exec("b", "t")
    node.exec("urgent", "t", priority=9)
    assert node.reason("b") is WaitReason.TRAJECTORY_BUSY
    assert granted(node.finish("a")) == ["b"]
    assert granted(node.finish("b")) == ["urgent"]


def test_a_slot_is_free_only_when_the_lease_is_released(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    node.exec("b", "t")
    node.tell(TrajectoryClosed("nobody"))
    token = node.tokens["a"]
    node.start("a")
    assert node.reason("b") is WaitReason.TRAJECTORY_BUSY
    released = node.tell(LeaseReleased("a", token))
    assert granted(released) == ["b"]


def test_concurrency_is_the_number_of_slots(node: Dialogue) -> None:
    node.settle("t", concurrency=2)
    for name in ("a", "b", "c"):
        node.exec(name, "t")
    assert [node.reason(name) for name in ("a", "b", "c")] == [
        None,
        None,
        WaitReason.TRAJECTORY_BUSY,
    ]


def test_closing_cancels_what_waits_and_kills_what_runs(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    node.exec("b", "t")
    decisions = node.tell(TrajectoryClosed("t"))
    ends = [d for d in decisions if isinstance(d, End)]
    assert [(e.action, e.state, e.reason) for e in ends] == [
        ("a", State.CANCELLED, EndReason.TRAJECTORY_CLOSED),
        ("b", State.CANCELLED, EndReason.TRAJECTORY_CLOSED),
    ]
    assert [d.action for d in decisions if isinstance(d, Kill)] == ["a"]
    late = only(node.exec("c", "t"), End)
    assert late.reason is EndReason.TRAJECTORY_CLOSED


def test_closing_leaves_alone_what_has_its_end_already(node: Dialogue) -> None:
    node.settle("t", concurrency=2)
    node.exec("a", "t")
    node.exec("b", "t")
    node.tell(ActionEnded("a", node.tokens["a"]), CancelRequested("b"))
    assert node.tell(TrajectoryClosed("t")) == []


def test_a_lost_sandbox_fails_its_actions_with_its_reason(node: Dialogue) -> None:
    node.open("t")
    node.exec("a", "t")
    token = node.tokens["t"]
    lost = SandboxLost("t", token, EndReason.SANDBOX_FAILED, "no such image")
    ended = only(node.tell(lost), End)
    assert ended == End("a", State.FAILED, EndReason.SANDBOX_FAILED, "no such image")
    assert only(node.exec("b", "t"), End).message == "no such image"
    assert node.free(MEMORY) == 99
    node.tell(TrajectoryReleased("t", token))
    assert node.free(MEMORY) == 100


def test_a_sandbox_lost_under_a_running_action_keeps_its_cores_until_released(
    node: Dialogue,
) -> None:
    node.settle("t")
    grant = only(node.exec("a", "t", 4), Grant)
    node.tell(SandboxLost("t", node.tokens["t"], EndReason.LOST, "its agent died"))
    assert node.free() == 0
    node.tell(LeaseReleased("a", grant.token))
    assert node.free() == 4


def test_a_release_without_a_close_loses_its_actions(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    decisions = node.tell(TrajectoryReleased("t", node.tokens["t"]))
    assert [type(d) for d in decisions] == [End, Kill]


def test_opening_an_id_twice_raises_until_it_is_forgotten(node: Dialogue) -> None:
    node.settle("t")
    with pytest.raises(ValueError, match="open already"):
        node.open("t")
    with pytest.raises(ValueError, match="cannot be forgotten"):
        node.scheduler.forget_trajectory("t")
    node.tell(TrajectoryClosed("t"), TrajectoryReleased("t", node.tokens["t"]))
    with pytest.raises(ValueError, match="open already"):
        node.open("t")
    node.scheduler.forget_trajectory("t")
    assert only(node.open("t"), Place).node == "node0"


def two_nodes(talk: Dialogue) -> None:
    for name in ("n0", "n1"):
        talk.join(name, machine(memory=100, node=name))


def test_one_whose_files_are_on_a_node_lives_there_however_full_it_is(talk: Dialogue) -> None:
    two_nodes(talk)
    talk.open("t", memory=80, node="n0")
    assert only(talk.open("fork", memory=20, node="n0"), Place).node == "n0"
    assert talk.open("second", memory=20, node="n0") == []
    talk.exec("a", "second")
    assert talk.reason("a") is WaitReason.MEMORY
    talk.tell(TrajectoryClosed("fork"))
    placed = talk.tell(TrajectoryReleased("fork", talk.tokens["fork"]))
    assert only(placed, Place) == Place("second", "n0", talk.tokens["second"])


def test_one_that_waits_for_its_node_holds_up_others_there_only(talk: Dialogue) -> None:
    two_nodes(talk)
    talk.open("t", memory=80, node="n0")
    assert talk.open("fork", memory=40, node="n0") == []
    assert talk.open("other", memory=10, node="n0") == [], "it would overtake on the same node"
    assert only(talk.open("free", memory=10), Place).node == "n1"
    assert talk.open("large", memory=95) == []
    assert talk.open("small", memory=10) == [], "one that may live anywhere holds up all"
    talk.tell(TrajectoryClosed("t"))
    placed = talk.tell(TrajectoryReleased("t", talk.tokens["t"]))
    assert [p.trajectory for p in placed if isinstance(p, Place)] == ["fork", "other"]


def test_one_whose_node_is_gone_is_lost_and_blocks_nobody(talk: Dialogue) -> None:
    two_nodes(talk)
    talk.open("t", memory=80, node="n0")
    talk.open("fork", memory=40, node="n0")
    talk.exec("a", "fork")
    decisions = talk.tell(NodeDown("n0", 1))
    (end,) = [d for d in decisions if isinstance(d, End) and d.action == "a"]
    assert end.reason is EndReason.LOST
    assert "n0" in end.message
    assert only(talk.open("other", memory=10), Place).node == "n1"


def test_one_that_no_node_but_its_own_could_hold_is_refused(talk: Dialogue) -> None:
    talk.join("n0", machine(memory=10, node="n0"))
    talk.join("n1", machine(memory=100, node="n1"))
    assert talk.open("fork", memory=40, node="n0") == []
    assert only(talk.exec("a", "fork"), End).reason is EndReason.INFEASIBLE
