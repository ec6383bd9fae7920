"""Every wait has a reason, a place in its queue and a sentence."""

from __future__ import annotations

import pytest

from tangram.scheduler import (
    Action,
    Amounts,
    CancelRequested,
    Demand,
    Profile,
    QuotaClosed,
    ResourceId,
    Submitted,
    Tick,
    WaitReason,
    WaitSpan,
)
from tangram.scheduler.queue import Alarms
from tangram.scheduler.records import SPANS_MAX

from .dialogue import CORES, SEARCH, Dialogue, machine


def sentence(talk: Dialogue, name: str) -> str:
    return talk.scheduler.explain(name, talk.now).sentence


def test_the_waits_of_an_action_are_told_in_order_with_their_times(node: Dialogue) -> None:
    node.settle("u")
    node.exec("first", "u", 4)
    node.open("t")
    node.now = 1.0
    node.exec("a", "t")
    node.exec("b", "t")
    node.now = 2.0
    node.ready("t")
    node.now = 5.0
    node.finish("first")
    node.now = 6.0
    node.finish("a")
    starting = WaitSpan(WaitReason.SANDBOX_STARTING, None, 1.0, 2.0)
    assert node.scheduler.explain("a", 9.0).spans == (
        starting,
        WaitSpan(WaitReason.CORES, CORES, 2.0, 5.0),
    )
    assert node.scheduler.explain("b", 9.0).spans == (
        starting,
        WaitSpan(WaitReason.TRAJECTORY_BUSY, None, 2.0, 6.0),
    )


def test_an_action_that_never_waited_has_no_waits(node: Dialogue) -> None:
    node.settle("t")
    node.exec("a", "t")
    explanation = node.scheduler.explain("a", 0.0)
    assert (explanation.spans, explanation.reason, explanation.ahead) == ((), None, 0)


def test_a_queued_action_says_what_it_needs_what_is_free_and_who_is_ahead(node: Dialogue) -> None:
    node.settle(*"tuvwx")
    node.exec("a", "t", 3)
    for name, trajectory in zip("bcde", "uvwx", strict=True):
        node.exec(name, trajectory, 2)
    assert sentence(node, "b") == "waits for 2 of 4 cores on node0: 1 is free"
    assert sentence(node, "c") == (
        "waits for 2 of 4 cores on node0: 1 is free, 1 action goes before it"
    )
    assert sentence(node, "e").endswith("1 is free, 3 actions go before it")
    assert [node.scheduler.explain(name, 0.0).ahead for name in "bcde"] == [0, 1, 2, 3]


def test_each_gate_has_its_sentence(node: Dialogue) -> None:
    node.open("t", memory=60)
    node.exec("a", "t")
    node.open("u", memory=60)
    node.open("v", memory=60)
    node.exec("b", "v")
    assert sentence(node, "a") == (
        "waits for the sandbox of its trajectory, which is starting on node0"
    )
    assert sentence(node, "b") == (
        "waits until a node has 60 B of memory free for its trajectory, 1 trajectory goes before it"
    )
    node.ready("t")
    node.exec("c", "t")
    assert sentence(node, "c") == "waits for its trajectory, which runs 1 action at a time"


def test_quota_sentences(talk: Dialogue) -> None:
    talk.call("early")
    assert sentence(talk, "early") == "waits for a node: none that could serve it has joined"
    talk.join_quota(2)
    talk.call("a", 2)
    assert sentence(talk, "a") == "waits for 2 units of quota search: 1 is free"
    talk.tell(QuotaClosed(SEARCH, 10.0), at=4.0)
    assert sentence(talk, "a") == (
        "waits for quota search, which its provider closed for another 6.0 s"
    )


def test_running_and_ended_actions_say_so(node: Dialogue) -> None:
    node.settle("t", "u")
    node.exec("a", "t", 2)
    assert sentence(node, "a") == "is being prepared on node0 with 2 cores"
    node.start("a")
    assert sentence(node, "a") == "runs on node0 with 2 cores"
    node.tell(CancelRequested("a", "no longer needed"))
    assert sentence(node, "a") == "cancelled (cancelled): no longer needed"
    node.exec("b", "u")
    node.finish("b")
    assert sentence(node, "b") == "finished"


def test_run_time_is_predicted_with_the_least_amount_until_there_is_a_grant(
    node: Dialogue,
) -> None:
    node.settle("t", "u")
    node.exec("first", "t", 4)
    demand = Demand({"cores": Amounts.between(2, 4)}, key="cores")
    profile = Profile(60.0, {2: 0.75})
    node.tell(Submitted(Action("a", "task", demand, "u", profile=profile)))
    assert node.scheduler.explain("a", 0.0).predicted_run_s == pytest.approx(40.0)
    assert node.scheduler.explain("first", 0.0).predicted_run_s is None


def test_what_waits_is_summed_per_resource_and_reason(node: Dialogue) -> None:
    node.settle("t", "u", "v")
    node.exec("a", "t", 4)
    node.exec("b", "u", 3)
    node.exec("c", "v", 2)
    node.exec("d", "t", 1)
    node.open("w", memory=100)
    node.exec("e", "w", 2)
    waiting = node.scheduler.waiting()
    assert set(waiting) == {CORES, ResourceId("cores")}
    assert (waiting[CORES].count, waiting[CORES].units) == (3, 6)
    assert waiting[CORES].units_by_reason == {
        WaitReason.CORES: 3,
        WaitReason.BEHIND: 2,
        WaitReason.TRAJECTORY_BUSY: 1,
    }
    assert waiting[ResourceId("cores")].reason is WaitReason.MEMORY
    node.finish("a", "b", "c", "d")
    assert set(node.scheduler.waiting()) == {ResourceId("cores")}


def test_the_history_of_waits_is_bounded_and_keeps_its_first_and_its_last(talk: Dialogue) -> None:
    talk.join_quota(2)
    talk.call("holder")
    talk.call("a", 2)
    for i in range(SPANS_MAX):
        talk.tell(QuotaClosed(SEARCH, 2.0 * i + 2), at=2.0 * i + 1)
        talk.tell(Tick(), at=2.0 * i + 2)
    spans = talk.scheduler.explain("a", talk.now).spans
    assert len(spans) == SPANS_MAX
    assert spans[0] == WaitSpan(WaitReason.QUOTA, SEARCH, 0.0, 1.0)
    assert spans[-1] == WaitSpan(WaitReason.QUOTA, SEARCH, talk.now)


def test_an_unknown_action_raises(node: Dialogue) -> None:
    with pytest.raises(KeyError):
        node.scheduler.explain("nobody", 0.0)


def test_alarms_forget_what_was_dropped_or_moved() -> None:
    alarms: Alarms[ResourceId] = Alarms()
    for time in range(1000):
        alarms.set(CORES, float(time))
    alarms.set(SEARCH, 5.0)
    assert (alarms.next(), len(alarms), len(alarms._heap) < 200) == (5.0, 2, True)
    alarms.drop(SEARCH)
    assert alarms.due(998.0) == []
    assert alarms.due(999.0) == [CORES]
    assert alarms.next() is None


def test_a_choice_of_amounts_is_told_with_its_predictions_and_their_source(node: Dialogue) -> None:
    node.settle("t", "u", "v")
    demand = Demand({"cores": Amounts.between(1, 4)}, key="cores")
    given = Action("a", "task", demand, "t", profile=Profile(8.0, serial=0.0))
    node.tell(Submitted(given))
    told = node.scheduler.explain("a", node.now)
    assert told.considered == ((1, 8.0), (2, 4.0), (3, 8.0 / 3), (4, 2.0))
    assert told.predicted_from == "given"
    node.tell(Submitted(Action("b", "task", demand, "u", kind="exec")))
    told = node.scheduler.explain("b", node.now)
    assert (told.considered, told.predicted_from, told.predicted_run_s) == ((), "nothing", None)
    node.exec("c", "v", 1)
    assert node.scheduler.explain("c", node.now).considered == ()


def test_those_that_go_before_an_action_need_not_be_older() -> None:
    talk = Dialogue(policy="elastic")
    talk.join(capacities=machine(2))
    talk.settle("t", "u", "v", "w")
    talk.exec("all", "t", 2)
    known = Profile(50.0, serial=0.1)
    talk.exec("long", "u", Amounts.between(1, 2), profile=known)
    talk.exec("short", "v", Amounts.between(1, 2), profile=Profile(1.0, serial=0.1))
    talk.exec("settled", "w")
    explained = talk.scheduler.explain("long", talk.now)
    assert explained.ahead == 2 and explained.sentence.endswith(", 2 actions go before it")
