"""Limits of tasks: who waits for its own task, who does not, and who comes back in which order."""

from __future__ import annotations

import pytest

from tangram.scheduler import (
    Amounts,
    CancelAllRequested,
    CancelRequested,
    End,
    EndReason,
    Grant,
    Profile,
    Resize,
    ResizeRequested,
    Scheduler,
    WaitReason,
)

from .dialogue import CORES, SEARCH, Dialogue, granted, machine, only

ELASTIC = Amounts.between(1, 8)
LINEAR = Profile(8.0, serial=0.0)


def pool(limit: int, cores: int = 8, policy: str = "elastic", **others: int) -> Dialogue:
    """A node, and task `a` limited to so many of its cores."""
    talk = Dialogue(policy=policy, limits={"a": {"cores": limit, **others}})
    talk.join(capacities=machine(cores, 10_000))
    talk.settle(*(f"t{i}" for i in range(12)))
    return talk


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"a": {"cores": 0}}, "a.cores: at least 1 unit"),
        ({"*": {"cores": True}}, "not True"),
        ({"*": {"cores": 1.5}}, "a whole number, not 1.5"),
        ({"a": {"memory": 5}}, "a: memory is held by trajectories"),
    ],
)
def test_a_malformed_limit_is_refused(limits: dict[str, dict[str, int]], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        Scheduler(limits=limits)
    assert message in str(refused.value)


def test_an_action_above_the_limit_of_its_task_waits_and_blocks_nobody() -> None:
    talk = pool(limit=2)
    talk.exec("a0", "t0", 2, task="a")
    talk.exec("a1", "t1", 1, task="a")
    assert talk.reason("a1") is WaitReason.TASK_LIMIT
    assert granted(talk.exec("b0", "t2", 6, task="b")) == ["b0"]
    talk.finish("b0")
    assert talk.reason("a1") is WaitReason.TASK_LIMIT, "cores are free, its task's are not"
    assert granted(talk.finish("a0")) == ["a1"]


def test_as_many_come_back_as_fit_in_their_order() -> None:
    talk = pool(limit=4)
    talk.exec("a0", "t0", 4, task="a")
    for i, cores in enumerate((2, 3, 1), start=1):
        talk.exec(f"a{i}", f"t{i}", cores, task="a")
    talk.exec("urgent", "t4", 1, task="a", priority=1)
    assert granted(talk.finish("a0")) == ["urgent", "a1"]
    assert talk.reason("a2") is WaitReason.TASK_LIMIT, "three do not fit, and nobody passes it"
    assert talk.reason("a3") is WaitReason.TASK_LIMIT
    assert granted(talk.finish("a1")) == ["a2"]
    assert granted(talk.finish("urgent")) == ["a3"]


def test_what_is_back_in_its_queue_waits_there_like_others() -> None:
    talk = pool(limit=4)
    talk.exec("a0", "t0", 4, task="a")
    talk.exec("b0", "t2", 4, task="b")
    talk.exec("b1", "t3", 7, task="b")
    talk.exec("a1", "t1", 3, task="a")
    assert talk.reason("a1") is WaitReason.TASK_LIMIT
    assert talk.finish("a0") == []
    assert (talk.reason("b1"), talk.reason("a1")) == (WaitReason.CORES, WaitReason.BEHIND)


def test_an_action_that_its_limit_never_lets_run_is_refused() -> None:
    talk = pool(limit=2)
    ended = only(talk.exec("a0", "t0", Amounts.among({4, 8}), task="a"), End)
    assert ended.reason is EndReason.INFEASIBLE
    assert ended.message == "needs 4 cores, but the limit of task a is 2 cores at once"


def test_every_task_has_the_limits_of_the_star_unless_it_has_its_own() -> None:
    talk = Dialogue(limits={"*": {"cores": 1}, "a": {"cores": 2}, "b": {"quota:search": 1}})
    talk.join()
    talk.settle("t0", "t1")
    assert granted(talk.exec("a0", "t0", 2, task="a")) == ["a0"]
    assert only(talk.exec("b0", "t1", 2, task="b"), End).reason is EndReason.INFEASIBLE
    assert only(talk.exec("c0", "t1", 2, task="c"), End).reason is EndReason.INFEASIBLE


def test_an_amount_that_the_policy_chooses_is_capped_to_the_limit() -> None:
    talk = pool(limit=3)
    grant = only(talk.exec("a0", "t0", ELASTIC, task="a", profile=LINEAR), Grant)
    assert grant.amounts == {CORES: 3}


def test_one_that_takes_what_its_task_may_hold_sends_the_others_out_of_the_queue() -> None:
    talk = pool(limit=6)
    talk.exec("b0", "t0", 8, task="b")
    for i in range(1, 5):
        talk.exec(f"a{i}", f"t{i}", ELASTIC, task="a", profile=LINEAR)
    assert talk.reason("a4") is WaitReason.BEHIND
    (first, *others) = [d for d in talk.finish("b0") if isinstance(d, Grant)]
    held = first.amounts[CORES] + sum(grant.amounts[CORES] for grant in others)
    assert first.amounts[CORES] > 1 and held <= 6
    waiting = [f"a{i}" for i in range(1, 5) if talk.reason(f"a{i}") is not None]
    assert waiting and all(talk.reason(name) is WaitReason.TASK_LIMIT for name in waiting)


@pytest.mark.parametrize("policy", ["fixed:4", "backfill:4", "unlimited"])
def test_a_fixed_amount_is_capped_too(policy: str) -> None:
    talk = pool(limit=3, policy=policy)
    assert only(talk.exec("a0", "t0", ELASTIC, task="a"), Grant).amounts == {CORES: 3}


def test_a_limit_of_two_kinds_keeps_whoever_is_short_of_either() -> None:
    talk = Dialogue(limits={"a": {"cores": 2, "quota:search": 1}})
    talk.join()
    talk.join_quota(4)
    talk.settle(*(f"t{i}" for i in range(4)))
    talk.exec("cores", "t0", 2, task="a")
    talk.call("search", task="a")
    talk.exec("both", "t1", 1, task="a", search=1)
    talk.call("another", task="a")
    assert {talk.reason(name) for name in ("both", "another")} == {WaitReason.TASK_LIMIT}
    assert talk.finish("cores") == [], "it has its cores, and waits for the quota of its task"
    assert talk.scheduler.explain("both", 0.0).resource == SEARCH
    assert granted(talk.finish("search")) == ["both"]
    assert granted(talk.finish("both")) == ["another"]


def test_a_better_rank_takes_the_place_of_a_worse_one_of_its_task() -> None:
    talk = pool(limit=2)
    talk.exec("b0", "t0", 8, task="b")
    talk.exec("a0", "t1", 2, task="a")
    assert talk.reason("a0") is WaitReason.CORES
    talk.exec("urgent", "t2", 1, task="a", priority=1)
    assert (talk.reason("urgent"), talk.reason("a0")) == (WaitReason.CORES, WaitReason.TASK_LIMIT)
    assert granted(talk.finish("b0")) == ["urgent"]
    assert granted(talk.finish("urgent")) == ["a0"]


def test_a_running_action_grows_no_further_than_its_task_may() -> None:
    talk = pool(limit=3)
    talk.exec("a0", "t0", Amounts.between(1, 8), task="a")
    talk.exec("a1", "t1", 1, task="a")
    talk.start("a0")
    assert talk.tell(ResizeRequested("a0", {CORES: 3})) == []
    resize = only(talk.tell(ResizeRequested("a0", {CORES: 2})), Resize)
    assert (resize.token, resize.amounts) == (talk.tokens["a0"], {CORES: 2})
    talk.exec("a2", "t2", 1, task="a")
    assert talk.reason("a2") is WaitReason.TASK_LIMIT
    assert granted(talk.resized("a0", 1)) == ["a2"]


def test_what_a_limit_keeps_says_so() -> None:
    talk = pool(limit=3)
    talk.exec("a0", "t0", 2, task="a")
    talk.exec("a1", "t1", 2, task="a")
    talk.exec("a2", "t2", 1, task="a")
    talk.exec("a3", "t3", 1, task="a")
    sentences = [talk.scheduler.explain(name, 0.0).sentence for name in ("a1", "a2", "a3")]
    start = "waits for its task a, which holds 2 of at most 3 cores"
    assert sentences == [
        start,
        f"{start}, 1 other action of it goes first",
        f"{start}, 2 other actions of it go first",
    ]
    summary = talk.scheduler.waiting()[CORES]
    assert (summary.count, summary.units, summary.reason) == (3, 4, WaitReason.TASK_LIMIT)


def test_what_waits_for_more_says_so() -> None:
    talk = pool(limit=8)
    talk.exec("b0", "t0", Amounts.among({1, 7}), task="b", profile=Profile(7.0, serial=0.0))
    talk.exec("e", "t1", ELASTIC, task="b", profile=Profile(1000.0, serial=0.0))
    assert talk.reason("e") is WaitReason.FOR_MORE
    assert talk.scheduler.explain("e", 0.0).sentence == (
        "waits for more than 1 of 8 cores on node0: 1 is free; it ends sooner with more, or others "
        "do if it waits"
    )


@pytest.mark.parametrize("policy", ["fcfs", "backfill:1", "elastic"])
def test_a_release_looks_at_no_more_than_it_lets_go(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Dialogue(policy=policy, limits={"a": {"quota:search": 4}})
    talk.join_quota(1000)
    check = Scheduler.check_invariants
    monkeypatch.setattr(Scheduler, "check_invariants", lambda self: None)
    for i in range(10_000):
        talk.call(f"a{i}", Amounts.between(1, 2), task="a", profile=Profile(9.0, serial=0.5))
    entries = talk.scheduler._life.actions.values()
    spans = {e.id: len(e.spans()) for e in entries if e.reason is WaitReason.TASK_LIMIT}
    assert len(spans) >= 9_992
    assert len(list(talk.scheduler._waiting.queues[SEARCH])) <= 4
    served = granted(talk.finish("a0"))
    moved = [e.id for e in entries if e.id in spans and len(e.spans()) != spans[e.id]]
    assert served and len(moved) <= 8
    check(talk.scheduler)


def test_a_group_that_is_cancelled_at_once_leaves_without_a_grant_in_between() -> None:
    talk = pool(limit=8)
    talk.exec("b0", "t0", 8, task="b")
    for i in range(1, 6):
        talk.exec(f"a{i}", f"t{i}", 8, task="a", group="g")
    talk.exec("next", "t6", 8, task="b")
    names = tuple(f"a{i}" for i in range(1, 6))
    decisions = talk.tell(CancelAllRequested(("unknown", *names), "the group is decided"))
    assert [d.action for d in decisions if isinstance(d, End)] == list(names)
    assert len(decisions) == 5 and talk.scheduler.stale == 1
    assert granted(talk.finish("b0")) == ["next"]


def test_cancelling_the_first_at_a_limit_lets_the_next_go() -> None:
    talk = pool(limit=4)
    talk.exec("a0", "t0", 2, task="a")
    talk.exec("large", "t1", 4, task="a")
    talk.exec("small", "t2", 1, task="a")
    assert granted(talk.tell(CancelRequested("large"))) == ["small"]
