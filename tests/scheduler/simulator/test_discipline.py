"""Orders, weights and limits of a simulation: how they are written, and what they change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tangram.scheduler.model import State
from tangram.scheduler.simulator.cluster import parse_nodes
from tangram.scheduler.simulator.discipline import (
    Discipline,
    check_names,
    parse_limits,
    parse_weights,
)
from tangram.scheduler.simulator.summary import summarise
from tangram.scheduler.simulator.trace import TraceTrajectory

from .worlds import call_of, ends, outcome, run_of, walk

POD = "pod:request=1,limit=1,pods=8"


def singles(name: str, count: int, **fields: Any) -> list[TraceTrajectory]:
    """So many trajectories of a task, of one action of one second each."""
    return [walk(f"{name}{i}", run_of(1), task=name, **fields) for i in range(count)]


def in_order(trajectories: list[TraceTrajectory], discipline: Discipline) -> list[str]:
    """Trajectories as they are served on one core."""
    result = outcome(trajectories, "1", discipline=discipline)
    return [run.trajectory for run in result.actions]


# What is written


@pytest.mark.parametrize(
    ("texts", "weights"),
    [((), {}), (["a=2", "b=0.5"], {"a": 2.0, "b": 0.5}), (["a=b=3"], {"a=b": 3.0})],
)
def test_weights_are_written_by_name(texts: list[str], weights: dict[str, float]) -> None:
    assert parse_weights(texts) == weights


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "such as coding=2, not 'a'"),
        ("=2", "such as coding=2"),
        ("a=", "such as coding=2"),
        ("a=many", "such as coding=2"),
        ("a=nan", "such as coding=2"),
        ("a=0", "a: a weight is a positive number, not 0.0"),
        ("a=inf", "a weight is a positive number"),
    ],
)
def test_another_weight_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_weights([text])


def test_limits_are_written_by_task_and_kind() -> None:
    texts = ["a:cores=64,quota:search=4", "a:gpus=2", "b:c:quota:x=1", "*:cores=128"]
    assert parse_limits(texts) == {
        "a": {"cores": 64, "quota:search": 4, "gpus": 2},
        "b:c": {"quota:x": 1},
        "*": {"cores": 128},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "write TASK:cores=64"),
        ("a:", "write TASK:cores=64"),
        (":cores=1", "write TASK:cores=64"),
        ("a:cores", "write TASK:cores=64"),
        ("a:cores=1,", "write TASK:cores=64"),
        ("a:core=1", "limits are of cores, gpus or quota:NAME, not of 'core'"),
        ("a:memory=1", "not of 'memory'"),
        ("a:cores=0", "a whole number from 1"),
        ("a:cores=1.5", "a whole number from 1"),
        ("a:cores=1,cores=2", "cores of 'a' is given twice"),
    ],
)
def test_another_limit_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_limits([text])


def test_what_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' is given twice"):
        parse_weights(["a=1", "a=2"])
    with pytest.raises(ValueError, match="cores of 'a' is given twice"):
        parse_limits(["a:cores=1", "a:cores=2"])


def test_an_unknown_order_is_refused_where_it_is_named() -> None:
    with pytest.raises(ValueError, match="unknown order 'lottery'; known are first-come"):
        Discipline("lottery")


@pytest.mark.parametrize(
    ("discipline", "words"),
    [
        (Discipline(weights={"b": 2}), "no task or tenant is called 'b'; there are: lab, task"),
        (Discipline(limits={"b": {"cores": 1}}), r"no task is called 'b'; there are: \*, task"),
        (Discipline(limits={"lab": {"cores": 1}}), "no task is called 'lab'"),
        (
            Discipline(limits={"*": {"quota:serch": 1}}),
            "no quota is called 'serch'; there are: search",
        ),
    ],
)
def test_names_that_do_not_occur_are_refused(discipline: Discipline, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_names(discipline, [walk("t", tenant="lab")], ["search"])


def test_names_that_occur_are_not() -> None:
    limits = {"task": {"cores": 1, "quota:search": 1}, "*": {"gpus": 1}}
    discipline = Discipline(weights={"task": 1, "lab": 2}, limits=limits)
    check_names(discipline, [walk("t", tenant="lab")], ["search"])


# What it changes


def test_the_priority_of_a_trajectory_and_of_its_action_add_up() -> None:
    trajectories = [
        walk("first", run_of(1)),
        walk("plain", run_of(1), priority=1),
        walk("urgent", run_of(1, priority=2), priority=1),
        walk("unhurried", run_of(1, priority=-2), priority=4),
    ]
    order = ["first", "urgent", "unhurried", "plain"]
    assert in_order(trajectories, Discipline()) == order


def test_fair_share_alternates_where_first_come_does_not() -> None:
    trajectories = singles("a", 4) + singles("b", 2)
    assert in_order(trajectories, Discipline()) == ["a0", "a1", "a2", "a3", "b0", "b1"]
    fair = ["a0", "b0", "a1", "b1", "a2", "a3"]
    assert in_order(trajectories, Discipline("fair-share")) == fair
    heavy = Discipline("fair-share", {"a": 2.0})
    assert in_order(trajectories, heavy) == ["a0", "b0", "a1", "a2", "b1", "a3"]


def test_two_tasks_of_a_tenant_share_what_one_task_of_none_gets() -> None:
    pairs = zip(singles("a", 10), singles("b", 10), strict=True)
    lab = [replace(t, tenant="lab") for pair in pairs for t in pair]
    served = in_order(lab + singles("c", 10), Discipline("fair-share"))
    # The first of `a` counted alone in its tenant.
    assert sum(name.startswith("c") for name in served[:19]) == 9
    none = [replace(trajectory, tenant="") for trajectory in lab]
    served = in_order(none + singles("c", 10), Discipline("fair-share"))
    assert sum(name.startswith("c") for name in served[:18]) == 6


def test_a_group_that_is_nearly_done_is_served_before_a_large_one() -> None:
    large = [walk(f"l{i}", run_of(1), group="large") for i in range(3)]
    small = walk("s", run_of(1), group="small")
    assert in_order([*large, small], Discipline()) == ["l0", "l1", "l2", "s"]
    assert in_order([*large, small], Discipline("group")) == ["l0", "s", "l1", "l2"]
    assert in_order([*large, small], Discipline("group:ageing=0.01"))[1] == "s"


def test_a_limit_holds_its_task_and_nobody_else() -> None:
    limits = {"a": {"cores": 2}, "*": {"quota:search": 1}}
    calls = [walk(f"c{i}", call_of("search", 1), task="c") for i in range(2)]
    result = outcome(
        singles("a", 4) + singles("b", 2) + calls, "8", discipline=Discipline(limits=limits)
    )
    found = {name.partition("/")[0]: end_s for name, end_s in ends(result).items()}
    assert found == {"a0": 1, "a1": 1, "a2": 2, "a3": 2, "b0": 1, "b1": 1, "c0": 1, "c1": 2}


def test_what_is_larger_than_its_limit_is_refused_with_the_reason() -> None:
    discipline = Discipline(limits={"*": {"cores": 1}})
    result = outcome([walk("t", run_of(1, 2))], "4", discipline=discipline)
    assert result.actions[0].state is State.FAILED
    assert "the limit of task task is 1 core" in result.actions[0].reason


@pytest.mark.parametrize("policy", ["fcfs", "fixed:2", "backfill:2", "arl-tangram", "elastic"])
def test_every_policy_serves_in_the_order(policy: str) -> None:
    discipline = Discipline("fair-share")
    result = outcome(singles("a", 3) + singles("b", 1), "1", policy, discipline=discipline)
    assert [run.trajectory for run in result.actions] == ["a0", "b0", "a1", "a2"]
    assert (result.order, result.name) == ("fair-share", f"{policy}, fair-share")


def test_pods_know_no_order_and_say_so() -> None:
    trajectories = singles("a", 3) + singles("b", 1)
    usual = outcome(trajectories, "1", POD)
    other = outcome(trajectories, "1", POD, discipline=Discipline("fair-share"))
    assert other.actions == usual.actions
    assert (other.order, other.name, usual.notes) == ("", POD, [])
    assert other.notes == [f"{POD}: pods are served as they come, without an order or limits"]


@pytest.mark.parametrize("policy", ["fcfs", POD])
def test_each_end_is_told_also_of_those_without_a_result(policy: str) -> None:
    told: list[None] = []
    trajectories = [walk("a", run_of(1), run_of(1)), walk("b", call_of("x", 1)), walk("c")]
    outcome(trajectories, "1", policy, on_end=lambda: told.append(None))
    assert len(told) == 3
    outcome([walk("a", run_of(1, 99))], parse_nodes("1"), on_end=lambda: told.append(None))
    assert len(told) == 4


# Its figures


def test_figures_per_task_tell_what_each_had_while_all_wanted_some() -> None:
    """Served a0 b0 a1 b1 a2 a3, a second each on one core: `b` is done at 4, when each had two."""
    trajectories = singles("a", 4) + singles("b", 2)
    figures = summarise(outcome(trajectories, "1", discipline=Discipline("fair-share")))
    assert figures["order"] == "fair-share"
    assert figures["by_task"] == {
        "a": {
            "actions": 4,
            "mean_act_s": 3.75,
            "p95_act_s": pytest.approx(5.85),
            "mean_queue_s": 2.75,
            "core_share": pytest.approx(2 / 3),
            "core_share_together": 0.5,
        },
        "b": {
            "actions": 2,
            "mean_act_s": 3.0,
            "p95_act_s": pytest.approx(3.9),
            "mean_queue_s": 2.0,
            "core_share": pytest.approx(1 / 3),
            "core_share_together": 0.5,
        },
    }


def test_tenants_have_figures_too_and_those_without_one_are_together() -> None:
    trajectories = singles("a", 2, tenant="lab") + singles("b", 1) + singles("c", 1)
    figures = summarise(outcome(trajectories, "4"))
    shares = {name: tenant["core_share"] for name, tenant in figures["by_tenant"].items()}
    assert shares == {"": 0.5, "lab": 0.5}


def test_where_tasks_never_meet_they_share_nothing() -> None:
    trajectories = [walk("a", run_of(1), task="a"), walk("b", run_of(1), task="b", start_s=5)]
    tasks = summarise(outcome(trajectories, "1"))["by_task"]
    assert [task["core_share"] for task in tasks.values()] == [0.5, 0.5]
    assert [task["core_share_together"] for task in tasks.values()] == [None, None]


def test_one_task_without_groups_has_no_figures_of_its_own() -> None:
    figures = summarise(outcome([walk("a", run_of(1))], "1", POD))
    assert not {"by_task", "by_tenant", "groups"} & figures.keys()
    assert figures["order"] is None


def test_a_group_lasts_from_its_first_start_to_its_last_end() -> None:
    """On one core, in order: x 1 s to 3, y 3 to 6 (a gap of 1 from 2), z 6 to 7; u is refused."""
    trajectories = [
        walk("x", run_of(2), start_s=1, group="g"),
        walk("y", run_of(3, gap_s=1), start_s=2, group="g"),
        walk("z", run_of(1, gap_s=1), start_s=4, step=7),
        walk("u", run_of(1, 99), group="bad"),
        walk("alone", run_of(1), start_s=20),
    ]
    result = outcome(trajectories, "1")
    found = [(g.group, g.step, g.start_s, g.end_s, g.complete) for g in result.groups]
    assert found == [("g", None, 1, 6, True), ("", 7, 4, 7, True), ("bad", None, 0, 0, False)]
    assert summarise(result)["groups"] == {
        "complete": 2,
        "incomplete": 1,
        "mean_s": 4.0,
        "p95_s": pytest.approx(4.9),
        "max_s": 5.0,
    }
