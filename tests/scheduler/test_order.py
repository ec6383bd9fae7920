"""Orders of service beyond first-come: what each puts first, and what it learns on the way."""

from __future__ import annotations

import pytest

from tangram.scheduler import (
    Amounts,
    CancelRequested,
    LeaseReleased,
    Place,
    Profile,
    Scheduler,
    Started,
    Tick,
    TrajectoryClosed,
    TrajectoryReleased,
)
from tangram.scheduler.order import parse_order

from .dialogue import Dialogue, granted, machine


def calls(order: str, limit: int = 1, **options: object) -> Dialogue:
    """One quota of so many units, all of it held by `holder`."""
    talk = Dialogue(order=order, **options)
    talk.join_quota(limit)
    talk.call("holder", limit, task="holder")
    return talk


def drain(talk: Dialogue, name: str) -> list[str]:
    """Who is served after this one ends, one after the other, each for a second."""
    served: list[str] = []
    names = [name]
    while names or talk.scheduler.waiting():
        talk.now += 1.0
        if names:
            names = granted(talk.finish(names[0])) + names[1:]
        else:
            wakeup = talk.scheduler.next_wakeup(talk.now)
            assert wakeup is not None, "nothing runs, and nobody is going to ask again"
            names = granted(talk.tell(Tick(), at=wakeup))
        served += [name for name in names if name not in served]
    return served


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("lottery", "unknown order 'lottery'; known are first-come, priority[:ageing=60], "),
        ("first-come:ageing=3", "first-come takes no argument"),
        ("fair-share:2", "fair-share takes no argument"),
        ("priority:", "as priority:ageing=60"),
        ("priority:ageing=0", "seconds above 0"),
        ("priority:ageing=inf", "at most 86400 are meant"),
        ("group:ageing=soon", "as group:ageing=10"),
        ("group:waiting=5", "as group:ageing=10"),
    ],
)
def test_an_order_that_is_not_known_is_refused_with_what_would_be_right(
    order: str, message: str
) -> None:
    with pytest.raises(ValueError) as refused:
        Scheduler(order=order)
    assert message in str(refused.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_has_to_be_positive(weight: float) -> None:
    with pytest.raises(ValueError, match="coding: a weight is a positive number"):
        Scheduler(order="fair-share", weights={"coding": weight})


def test_an_order_keeps_its_name_and_its_ageing() -> None:
    assert parse_order("priority").ageing_s == 60.0
    assert parse_order("group:ageing=2.5").ageing_s == 2.5
    assert Scheduler(order="priority:ageing=5").order.name == "priority:ageing=5"
    assert Scheduler().order.name == "first-come"


def test_a_step_of_priority_is_worth_so_many_seconds_of_waiting() -> None:
    talk = calls("priority:ageing=10")
    talk.call("old")
    talk.now = 9.0
    talk.call("urgent", priority=1)
    talk.now = 11.0
    talk.call("urgent too late", priority=1)
    talk.call("more urgent", priority=2)
    assert drain(talk, "holder") == ["more urgent", "urgent", "old", "urgent too late"]


def test_without_ageing_a_higher_priority_goes_first_however_late_it_comes() -> None:
    talk = calls("first-come")
    talk.call("old")
    talk.now = 1e6
    talk.call("urgent", priority=1)
    assert drain(talk, "holder") == ["urgent", "old"]


def test_two_tasks_alternate_though_one_came_with_everything_at_once() -> None:
    talk = calls("fair-share")
    for i in range(4):
        talk.call(f"a{i}", task="a")
    for i in range(2):
        talk.call(f"b{i}", task="b")
    served = drain(talk, "holder")
    assert served[:4] == ["a0", "b0", "a1", "b1"]
    assert served[4:] == ["a2", "a3"]


def test_a_task_of_twice_the_weight_is_served_twice_as_often() -> None:
    talk = calls("fair-share", weights={"a": 2.0})
    for i in range(9):
        talk.call(f"a{i}", task="a")
        talk.call(f"b{i}", task="b")
    first = drain(talk, "holder")[:9]
    assert sum(name.startswith("a") for name in first) == 6


def test_a_tenant_shares_its_weight_among_its_tasks_that_have_something_to_do() -> None:
    talk = calls("fair-share", weights={"lab": 2.0})
    talk.call("gone", task="idle", tenant="lab")
    talk.tell(CancelRequested("gone"))
    for i in range(12):
        for task in ("a", "b"):
            talk.call(f"{task}{i}", task=task, tenant="lab")
        talk.call(f"c{i}", task="c", tenant="other")
    # The first of `a` counted alone in its tenant; from then on two share it.
    first = drain(talk, "holder")[:12]
    assert [sum(name.startswith(task) for name in first) for task in "abc"] == [4, 4, 4]


def test_what_is_asked_for_counts_by_its_dominant_resource() -> None:
    talk = Dialogue(order="fair-share")
    talk.join(capacities=machine(cores=8))
    talk.join_quota(2)
    talk.settle(*(f"t{i}" for i in range(12)))
    talk.exec("holder", "t0", 8, task="holder", search=2)
    for i in range(5):
        talk.exec(f"a{i}", f"t{i + 1}", 1, task="a", search=1)  # half of the quota
        talk.exec(f"b{i}", f"t{i + 6}", 4, task="b")  # half of the cores
    first = granted(talk.finish("holder"))
    assert first == ["a0", "b0", "a1"], "equal shares although one asks for four times the cores"


def test_a_task_pays_for_what_it_really_used() -> None:
    talk = calls("fair-share")
    talk.call("a0", task="a")
    talk.call("b0", task="b")
    assert granted(talk.finish("holder")) == ["a0"]
    talk.now = 10.0
    assert granted(talk.finish("a0")) == ["b0"]
    talk.call("a1", task="a")
    talk.now = 11.0
    for i in range(1, 6):
        talk.call(f"b{i}", task="b")
    # It was charged one second and used ten: the other task may now do as much.
    assert drain(talk, "b0") == ["b1", "b2", "b3", "b4", "b5", "a1"]


def test_what_is_cancelled_before_it_ran_is_not_charged() -> None:
    talk = calls("fair-share")
    for i in range(5):
        talk.call(f"a{i}", task="a")
    talk.tell(*(CancelRequested(f"a{i}") for i in range(5)))
    talk.call("a5", task="a")
    talk.call("b0", task="b")
    assert drain(talk, "holder") == ["a5", "b0"]


def test_a_task_that_was_idle_does_not_get_back_what_it_left() -> None:
    talk = calls("fair-share")
    for i in range(6):
        talk.call(f"a{i}", task="a")
    talk.finish("holder")
    for i in range(3):
        talk.now += 1.0
        talk.finish(f"a{i}")
    for i in range(3):
        talk.call(f"b{i}", task="b")
    assert drain(talk, "a3") == ["b0", "a4", "b1", "a5", "b2"]


def test_a_given_duration_is_what_a_task_is_charged_in_advance() -> None:
    talk = calls("fair-share")
    for i in range(3):
        talk.call(f"long{i}", task="a", profile=Profile(4.0))
    for i in range(8):
        talk.call(f"s{i}", task="b", profile=Profile(1.0))
    order = [name for _, _, decided in talk.said for name in granted(decided)]
    assert order == ["holder"]
    served = drain(talk, "holder")
    assert served.index("long1") == 5, "four short ones for one of four times their length"


def test_trajectories_wait_for_a_node_in_the_order_too() -> None:
    talk = Dialogue(order="fair-share")
    talk.join()
    talk.open("full", memory=100, task="c")
    for i in range(3):
        talk.open(f"a{i}", memory=100, task="a")
    talk.open("b0", memory=100, task="b")
    placed: list[str] = []
    for name in ("full", "a0", "b0", "a1"):
        talk.now += 1.0
        for decision in talk.tell(
            TrajectoryClosed(name), TrajectoryReleased(name, talk.tokens[name])
        ):
            assert isinstance(decision, Place)
            placed.append(decision.trajectory)
    assert placed == ["a0", "b0", "a1", "a2"]


def placed_one_after_the_other(talk: Dialogue, first: str, count: int) -> list[str]:
    """Who is placed when the one that fills the node is closed, and so on."""
    placed = [first]
    while len(placed) <= count:
        talk.now += 1.0
        name = placed[-1]
        closing = TrajectoryClosed(name), TrajectoryReleased(name, talk.tokens[name])
        placed += [d.trajectory for d in talk.tell(*closing) if isinstance(d, Place)]
    return placed[1:]


def test_a_tenant_shares_its_weight_among_its_tasks_for_places_on_nodes_too() -> None:
    talk = Dialogue(order="fair-share", weights={"lab": 2.0})
    talk.join()
    talk.open("full", memory=100, task="other")
    for i in range(9):
        for task in ("a", "b"):
            talk.open(f"{task}{i}", memory=100, task=task, tenant="lab")
        talk.open(f"c{i}", memory=100, task="c")
    # The first of `a` counted alone in its tenant, as with actions.
    first = placed_one_after_the_other(talk, "full", 9)
    assert [sum(name.startswith(task) for name in first) for task in "abc"] == [3, 3, 3]


def test_tasks_of_one_name_are_two_where_their_tenants_are() -> None:
    talk = calls("fair-share")
    for i in range(4):
        talk.call(f"mine{i}", task="coding", tenant="mine")
    for i in range(2):
        talk.call(f"theirs{i}", task="coding", tenant="theirs")
    assert drain(talk, "holder")[:4] == ["mine0", "theirs0", "mine1", "theirs1"]


def group_of(talk: Dialogue, name: str, size: int) -> None:
    for i in range(size):
        talk.open(f"{name}{i}", group=name)
        talk.ready(f"{name}{i}")


def test_the_action_that_holds_up_a_nearly_finished_group_goes_first() -> None:
    talk = Dialogue(order="group:ageing=10")
    talk.join()
    talk.settle("h")
    talk.exec("holder", "h", 4)
    group_of(talk, "large", 3)
    group_of(talk, "small", 3)
    talk.exec("l", "large0", 4, group="large")
    talk.now = 5.0
    talk.exec("s", "small0", 4, group="small")
    assert talk.scheduler.explain("s", 5.0).ahead == 1
    for i in (1, 2):
        talk.tell(TrajectoryClosed(f"small{i}"))
    assert talk.scheduler.explain("s", 5.0).ahead == 0, "its place changed while it waited"
    assert granted(talk.finish("holder")) == ["s"]


def test_nobody_is_overtaken_for_longer_than_its_group_is_open() -> None:
    talk = Dialogue(order="group:ageing=10")
    talk.join()
    talk.settle("h")
    talk.exec("holder", "h", 4)
    group_of(talk, "large", 3)
    group_of(talk, "small", 1)
    talk.exec("l", "large0", 4, group="large")
    talk.now = 20.1
    talk.exec("s", "small0", 4, group="small")
    assert granted(talk.finish("holder")) == ["l"]


def test_without_a_group_the_step_counts_and_large_ones_by_powers_of_two() -> None:
    talk = Dialogue(order="group:ageing=10")
    talk.join(capacities=machine(4, 1000))
    for i in range(33):
        talk.open(f"t{i}", step=7)
        talk.ready(f"t{i}")
    talk.settle("h", "other")
    talk.exec("holder", "h", 4)
    talk.exec("stepped", "t0", 4, step=7)
    talk.exec("free", "other", 4)
    assert talk.scheduler.explain("stepped", 0.0).ahead == 1
    key = talk.scheduler._life.actions["stepped"].key
    assert key[0] == 640.0
    talk.tell(TrajectoryClosed("t32"))
    assert talk.scheduler._life.actions["stepped"].key[0] == 320.0
    for i in range(31, 17, -1):
        talk.tell(TrajectoryClosed(f"t{i}"))
    assert talk.scheduler._life.actions["stepped"].key[0] == 320.0
    assert talk.scheduler._life.actions["stepped"].key[1:] == key[1:]
    for i in range(17, 0, -1):
        talk.tell(TrajectoryClosed(f"t{i}"))
    assert talk.scheduler._life.actions["stepped"].key[0] == 10.0


def test_the_shortest_goes_first_only_within_a_tier_of_the_order() -> None:
    talk = Dialogue(order="priority:ageing=10", policy="elastic")
    talk.join()
    talk.settle("h", "t0", "t1", "t2")
    talk.exec("holder", "h", 4)
    some = Amounts.between(3, 4)
    talk.exec("long", "t0", some, profile=Profile(100.0, serial=0.0))
    talk.now = 5.0
    talk.exec("short", "t1", some, profile=Profile(1.0, serial=0.0))
    talk.now = 15.0
    talk.exec("later", "t2", some, profile=Profile(0.1, serial=0.0))
    assert drain(talk, "holder") == ["short", "long", "later"]


@pytest.mark.parametrize("order", ["first-come", "priority", "fair-share", "group"])
def test_nothing_is_remembered_of_what_is_over(order: str) -> None:
    talk = Dialogue(order=order, limits={"*": {"cores": 4}})
    talk.join()
    for i in range(3):
        talk.open(f"t{i}", memory=60, task=f"task{i}", group="g", tenant="lab")
    talk.ready("t0")
    for i in range(3):
        talk.exec(f"a{i}", f"t{i}", 4, task=f"task{i}", group="g", tenant="lab")
    talk.tell(Started("a0", talk.tokens["a0"]), LeaseReleased("a0", talk.tokens["a0"]))
    for i in range(3):
        talk.tell(TrajectoryClosed(f"t{i}"))
        if f"t{i}" in talk.tokens:
            talk.tell(TrajectoryReleased(f"t{i}", talk.tokens[f"t{i}"]))
    ranking = talk.scheduler._ranking
    left = {name: value for name, value in vars(ranking).items() if isinstance(value, dict)}
    left.pop("_weights", None)
    assert not any(left.values()), left
    for queue in (getattr(ranking, "_actions", None), getattr(ranking, "_trajectories", None)):
        assert queue is None or not (queue._charges or queue._busy)
    assert not talk.scheduler._waiting.limits.allowances
