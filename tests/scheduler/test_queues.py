"""Who is served first: order within a queue, demands for several resources, reservations."""

from __future__ import annotations

from tangram.scheduler import (
    Amounts,
    CancelRequested,
    Grant,
    Profile,
    QuotaClosed,
    Reserve,
    Tick,
    WaitReason,
)
from tangram.scheduler.core import OVERTAKE_MAX

from .dialogue import CORES, SEARCH, Dialogue, granted, machine


def settle_many(talk: Dialogue, count: int) -> list[str]:
    names = [f"t{i}" for i in range(count)]
    talk.settle(*names)
    return names


def test_the_first_that_is_short_blocks_all_behind_it(node: Dialogue) -> None:
    settle_many(node, 4)
    node.exec("a", "t0", 3)
    node.exec("b", "t1", 2)
    node.exec("c", "t2", 1)
    assert [node.reason(name) for name in "bc"] == [WaitReason.CORES, WaitReason.BEHIND]
    assert granted(node.finish("a")) == ["b", "c"]


def test_an_action_that_has_a_choice_waits_while_nothing_is_free(node: Dialogue) -> None:
    settle_many(node, 2)
    node.exec("a", "t0", 4)
    node.exec("b", "t1", Amounts.between(1, 4), profile=Profile(8.0, serial=0.03))
    assert node.reason("b") is WaitReason.CORES
    assert granted(node.finish("a")) == ["b"]


def test_when_the_head_gives_up_the_next_one_is_served(node: Dialogue) -> None:
    settle_many(node, 4)
    node.exec("a", "t0", 3)
    node.exec("b", "t1", 2)
    node.exec("c", "t2", 1)
    assert granted(node.tell(CancelRequested("b"))) == ["c"]


def test_higher_priority_goes_first_and_equals_as_they_came(node: Dialogue) -> None:
    settle_many(node, 4)
    node.open("urgent", priority=1)
    node.ready("urgent")
    node.exec("a", "t0", 4)
    node.exec("b", "t1", 4)
    node.exec("c", "urgent", 4)
    node.exec("d", "t2", 4, priority=1)
    assert [node.reason(name) for name in "bcd"] == [
        WaitReason.BEHIND,
        WaitReason.CORES,
        WaitReason.BEHIND,
    ]
    assert [granted(node.finish(name)) for name in "acd"] == [["c"], ["d"], ["b"]]


def test_queues_of_different_nodes_do_not_touch_each_other(talk: Dialogue) -> None:
    for name in ("n0", "n1"):
        talk.join(name, machine(node=name))
    settle_many(talk, 4)
    assert [talk.scheduler.node_of(f"t{i}") for i in range(4)] == ["n0", "n1", "n0", "n1"]
    talk.exec("a", "t0", 4)
    talk.exec("b", "t2", 4)
    assert granted(talk.exec("c", "t1", 4)) == ["c"]


def test_an_action_is_granted_all_of_its_resources_or_none(node: Dialogue) -> None:
    node.join_quota(1)
    settle_many(node, 3)
    node.call("holder")
    assert node.exec("both", "t0", 2, search=1) == []
    assert (node.reason("both"), node.free()) == (WaitReason.QUOTA, 4)
    (grant,) = node.finish("holder")
    assert isinstance(grant, Grant) and grant.amounts == {CORES: 2, SEARCH: 1}


def test_one_that_waits_for_a_quota_does_not_block_those_that_need_cores(node: Dialogue) -> None:
    node.join_quota(1)
    settle_many(node, 3)
    node.call("holder")
    node.exec("both", "t0", 2, search=1)
    assert granted(node.exec("cores", "t1", 4)) == ["cores"]
    assert node.call("behind") == []
    assert node.reason("behind") is WaitReason.BEHIND
    assert granted(node.finish("holder")) == ["behind"], "cores are what the older one lacks now"
    assert node.reason("both") is WaitReason.CORES
    assert node.finish("cores") == []
    assert granted(node.finish("behind")) == ["both"]


def test_a_demand_for_two_resources_queues_behind_older_ones_at_each(node: Dialogue) -> None:
    node.join_quota(2)
    settle_many(node, 1)
    node.call("holder")
    node.call("wants two", 2)
    node.exec("both", "t0", 1, search=1)
    assert node.reason("both") is WaitReason.BEHIND
    assert granted(node.finish("holder")) == ["wants two"]
    assert node.reason("both") is WaitReason.QUOTA


def test_one_overtaken_too_often_has_its_units_reserved(node: Dialogue) -> None:
    node.join_quota(1)
    settle_many(node, OVERTAKE_MAX + 6)
    node.call("holder")
    node.exec("old", "t0", 3, search=1)
    decisions = []
    for i in range(1, OVERTAKE_MAX + 2):
        decisions += node.exec(f"a{i}", f"t{i}", 1)
        if i <= OVERTAKE_MAX:
            node.finish(f"a{i}")
    assert [d for d in decisions if isinstance(d, Reserve)] == [Reserve("old", (CORES, SEARCH))]
    assert node.scheduler.explain("old", 0.0).reserved
    last = OVERTAKE_MAX + 2
    node.finish(f"a{OVERTAKE_MAX + 1}")
    assert granted(node.exec("fits beside", f"t{last}", 1)) == ["fits beside"]
    node.exec("too much", f"t{last + 1}", 1)
    node.exec("behind it", f"t{last + 2}", 1)
    assert [node.reason("too much"), node.reason("behind it")] == [
        WaitReason.RESERVED,
        WaitReason.BEHIND,
    ]
    assert granted(node.finish("holder")) == ["old"]
    assert node.reason("too much") is WaitReason.CORES


def test_a_reservation_ends_with_its_action(node: Dialogue) -> None:
    node.join_quota(1)
    settle_many(node, OVERTAKE_MAX + 4)
    node.call("holder")
    node.exec("old", "t0", 4, search=1)
    for i in range(1, OVERTAKE_MAX + 2):
        node.exec(f"a{i}", f"t{i}")
        node.finish(f"a{i}")
    node.exec("young", f"t{OVERTAKE_MAX + 2}")
    assert node.reason("young") is WaitReason.RESERVED
    assert granted(node.tell(CancelRequested("old"))) == ["young"]


def test_a_closed_quota_wakes_its_waiters_in_order_when_it_opens(talk: Dialogue) -> None:
    talk.join_quota(2)
    talk.call("a")
    talk.tell(QuotaClosed(SEARCH, 30.0), at=1.0)
    for name in "bcd":
        talk.call(name)
    assert talk.reason("b") is WaitReason.QUOTA_CLOSED
    assert talk.scheduler.next_wakeup(1.0) == 30.0
    assert talk.finish("a") == []
    assert granted(talk.tell(Tick(), at=30.0)) == ["b", "c"]
    assert talk.reason("d") is WaitReason.QUOTA
    assert talk.scheduler.next_wakeup(30.0) is None


def test_closing_what_cannot_be_closed_is_dropped(node: Dialogue) -> None:
    node.tell(QuotaClosed(CORES, 9.0), QuotaClosed(SEARCH, 9.0))
    assert node.scheduler.stale == 2
