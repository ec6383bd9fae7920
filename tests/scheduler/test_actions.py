"""The life of one action: from submission through its gates and its grant to its end."""

from __future__ import annotations

import pytest

from tangram.scheduler import (
    CLUSTER,
    Action,
    ActionEnded,
    Amounts,
    CancelRequested,
    Demand,
    End,
    EndReason,
    Grant,
    Kill,
    LeaseLost,
    LeaseReleased,
    Resize,
    Resized,
    ResizeRequested,
    Started,
    State,
    Submitted,
    Tick,
    WaitReason,
)

from .dialogue import CORES, SEARCH, Dialogue, granted, only


def state(talk: Dialogue, name: str) -> State:
    return talk.scheduler.explain(name, talk.now).state


def test_an_action_is_granted_its_minimum_and_gives_it_back(node: Dialogue) -> None:
    node.settle("t")
    grant = only(node.exec("a", "t", Amounts.between(2, 4)), Grant)
    assert grant == Grant("a", "node0", 2, {CORES: 2})
    assert state(node, "a") is State.PREPARING
    assert node.start("a") == []
    assert state(node, "a") is State.RUNNING
    assert node.tell(ActionEnded("a", grant.token)) == []
    assert (state(node, "a"), node.free()) == (State.FINISHED, 2)
    node.tell(LeaseReleased("a", grant.token))
    assert node.free() == 4


def test_an_action_that_tangram_failed_at_is_failed(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    node.tell(ActionEnded("a", node.tokens["a"], failed=True))
    assert state(node, "a") is State.FAILED


def test_tokens_grow_over_placements_and_grants(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t")
    node.call("nowhere")
    node.exec("b", "u")
    tokens = [node.tokens[name] for name in ("t", "u", "a", "b")]
    assert tokens == sorted(set(tokens))


def test_a_cancelled_waiting_action_ends_at_once(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t", 4)
    node.exec("b", "u")
    ended = only(node.tell(CancelRequested("b", "enough")), End)
    assert ended == End("b", State.CANCELLED, EndReason.CANCELLED, "enough")


def test_a_cancelled_running_action_keeps_its_units_until_its_release(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t", 3)
    node.start("a")
    token = node.tokens["a"]
    ended, kill = node.tell(CancelRequested("a"))
    assert isinstance(ended, End) and kill == Kill("a", "node0", token)
    assert node.free() == 1
    assert node.tell(ActionEnded("a", token)) == []
    assert state(node, "a") is State.CANCELLED, "the first end stands"
    node.tell(LeaseReleased("a", token))
    assert node.free() == 4


def test_a_deadline_ends_what_waits_and_leaves_what_runs(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t", 4, deadline=5.0)
    node.exec("b", "u", deadline=7.0)
    assert node.scheduler.next_wakeup(0.0) == 7.0
    assert node.tell(Tick(), at=6.9) == []
    ended = only(node.tell(Tick(), at=7.0), End)
    assert (ended.action, ended.state, ended.reason) == ("b", State.EXPIRED, EndReason.EXPIRED)
    assert node.scheduler.next_wakeup(7.0) is None


def test_a_deadline_that_passed_before_submission_is_never_granted(node: Dialogue) -> None:
    node.settle("t")
    node.tell(Tick(), at=9.0)
    assert only(node.exec("a", "t", deadline=8.0), End).state is State.EXPIRED


def test_a_lost_lease_fails_its_action_and_frees_its_units(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t", 4)
    node.exec("b", "u", 4)
    decisions = node.tell(LeaseLost("a", node.tokens["a"], "agent died"))
    assert decisions[0] == End("a", State.FAILED, EndReason.LOST, "agent died")
    assert granted(decisions) == ["b"]


def test_a_lease_released_without_an_end_fails_its_action(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    assert only(node.tell(LeaseReleased("a", node.tokens["a"])), End).reason is EndReason.LOST


@pytest.mark.parametrize(
    "event",
    [
        Started("a", 99),
        ActionEnded("a", 99),
        LeaseReleased("a", 99),
        LeaseLost("a", 99, ""),
        Resized("a", 99, {CORES: 2}, 1),
        CancelRequested("unknown"),
        LeaseReleased("unknown", 2),
        ResizeRequested("unknown", {CORES: 2}),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_with_another_token_or_of_something_unknown_is_dropped(
    node: Dialogue, event: Started
) -> None:
    node.settle("t")
    node.exec("a", "t")
    node.start("a")
    assert node.tell(event) == []
    assert (node.scheduler.stale, state(node, "a"), node.free()) == (1, State.RUNNING, 3)


def test_events_that_come_twice_count_once(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t", 2)
    node.exec("b", "u", 2)
    node.finish("a")
    node.tell(LeaseReleased("a", node.tokens["a"]))
    assert (node.free(), node.scheduler.stale) == (2, 1)


@pytest.mark.parametrize(
    ("cores", "message"),
    [
        (
            5,
            "needs 5 cores, but the most that node0, the node of its trajectory, could ever give is 4",
        ),
        (Amounts.among({8, 16}), "needs 8 cores"),
    ],
)
def test_what_its_node_could_never_give_is_refused_with_the_most_it_could(
    node: Dialogue, cores: int | Amounts, message: str
) -> None:
    node.settle("t")
    ended = only(node.exec("a", "t", cores), End)
    assert (ended.state, ended.reason) == (State.FAILED, EndReason.INFEASIBLE)
    assert message in ended.message


def test_an_unknown_quota_is_refused_with_the_known_ones(talk: Dialogue) -> None:
    talk.join_quota(2)
    demand = Demand(cluster={"quota:serch": Amounts.exactly(1)})
    ended = only(talk.tell(Submitted(Action("a", "task", demand, kind="call"))), End)
    assert ended.reason is EndReason.UNKNOWN_RESOURCE
    assert ended.message == "unknown quota serch; known: search"


def test_more_than_a_quota_ever_has_is_refused(talk: Dialogue) -> None:
    talk.join_quota(2)
    assert only(talk.call("a", 3), End).reason is EndReason.INFEASIBLE


def test_before_any_node_joined_an_action_waits_for_one(talk: Dialogue) -> None:
    talk.open("t")
    talk.exec("a", "t")
    talk.call("c")
    assert [talk.reason("a"), talk.reason("c")] == [WaitReason.NO_NODE, WaitReason.NO_NODE]
    assert only(talk.join_quota(1), Grant).node == CLUSTER
    talk.join()
    assert granted(talk.ready("t")) == ["a"]


def test_a_call_of_a_trajectory_waits_for_neither_sandbox_nor_slot(node: Dialogue) -> None:
    node.join_quota(2)
    node.open("t")
    assert granted(node.call("early", trajectory="t")) == ["early"]
    node.ready("t")
    node.exec("a", "t")
    assert granted(node.call("late", trajectory="t")) == ["late"]


def test_submitting_an_id_twice_or_for_an_unknown_trajectory_raises(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    with pytest.raises(ValueError, match="'a' was submitted already"):
        node.exec("a", "t")
    with pytest.raises(KeyError):
        node.exec("b", "nobody")
    demand = Demand({"cores": Amounts.exactly(1)})
    with pytest.raises(ValueError, match="needs a trajectory"):
        node.tell(Submitted(Action("c", "task", demand)))
    node.scheduler.check_invariants()


def test_a_growing_resize_is_taken_now_and_a_shrinking_one_when_it_is_confirmed(
    node: Dialogue,
) -> None:
    node.settle("t")
    node.exec("a", "t", Amounts.between(1, 3))
    node.start("a")
    token = node.tokens["a"]
    resize = only(node.tell(ResizeRequested("a", {CORES: 3})), Resize)
    assert resize == Resize("a", "node0", token, {CORES: 3}, change=token + 1)
    assert node.free() == 1
    node.resized("a", 3)
    node.tell(ResizeRequested("a", {CORES: 2}))
    assert node.free() == 1
    node.resized("a", 2)
    assert node.free() == 2


def test_a_resize_that_did_not_happen_books_what_the_node_says(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t", Amounts.between(1, 4))
    node.start("a")
    node.tell(ResizeRequested("a", {CORES: 4}))
    node.exec("b", "u")
    assert granted(node.resized("a", 1)) == ["b"]


def test_an_action_that_the_node_could_not_resize_is_not_asked_again(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t", Amounts.between(1, 4))
    node.start("a")
    assert node.tell(ResizeRequested("a", {CORES: 2}))
    node.resized("a", 2)
    assert node.tell(ResizeRequested("a", {CORES: 4}))
    node.resized("a", 2)
    assert node.tell(ResizeRequested("a", {CORES: 3})) == []


@pytest.mark.parametrize("cores", [3, 5], ids=["not in the set", "more than there is"])
def test_a_resize_to_what_cannot_be_is_not_answered(node: Dialogue, cores: int) -> None:
    node.settle("t")
    node.exec("a", "t", Amounts.among({1, 2, 5} if cores == 3 else {1, 5}))
    node.start("a")
    assert node.tell(ResizeRequested("a", {CORES: cores})) == []
    assert node.free() == 3


def test_a_forgotten_action_is_unknown_and_its_id_is_free_again(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    with pytest.raises(ValueError, match="cannot be forgotten"):
        node.scheduler.forget("a")
    node.finish("a")
    assert state(node, "a") is State.FINISHED
    node.scheduler.forget("a")
    with pytest.raises(KeyError):
        node.scheduler.explain("a", 0.0)
    assert granted(node.exec("a", "t")) == ["a"]


def test_an_action_forgotten_before_its_release_still_returns_its_units(node: Dialogue) -> None:
    node.join_quota(1)
    node.call("a")
    node.tell(CancelRequested("a"))
    node.scheduler.forget("a")
    assert node.free(SEARCH) == 0
    node.tell(LeaseReleased("a", node.tokens["a"]))
    assert node.free(SEARCH) == 1
    with pytest.raises(KeyError):
        node.scheduler.explain("a", 0.0)
