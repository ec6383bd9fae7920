"""The simulation of policies: rules of traces and clusters, with figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tangram.managers.gpu import CHUNKS_VIEW, ChunksView
from tangram.managers.quota import QUOTA_VIEW, QuotaView
from tangram.scheduler import Decision, Event, ResizeRequested, ResourceId, Scheduler, State, Tick
from tangram.scheduler.simulator import replay, simulation
from tangram.scheduler.simulator.actions import stage
from tangram.scheduler.simulator.cluster import GpuSpec, QuotaSpec, parse_nodes
from tangram.scheduler.simulator.result import Hold
from tangram.scheduler.simulator.simulation import SimulationError

from .worlds import acts, call_of, ends, outcome, read, run_of, score_of, the, walk, walks


def test_an_action_is_submitted_a_gap_after_the_end_of_the_one_before() -> None:
    """The first at start + gap: 10 + 1, ends 13; the next at 13 + 2, ends 18."""
    result = outcome([walk("t", run_of(2, gap_s=1), run_of(3, gap_s=2), start_s=10)], "1")
    assert [(run.submitted_s, run.granted_s, run.ended_s) for run in result.actions] == [
        (11, 11, 13),
        (15, 15, 18),
    ]
    assert result.start_s == 10


def test_a_slow_action_delays_what_follows_in_its_trajectory_alone() -> None:
    """On one core a (0-4) makes b0 wait until 4; b1 comes a gap of 1 after the end of b0 at 5."""
    slow = walk("a", run_of(4))
    result = outcome([slow, walk("b", run_of(1, gap_s=1), run_of(1, gap_s=1))], "1")
    assert ends(result) == {"a/0": 4, "b/0": 5, "b/1": 7}
    assert acts(result) == {"a/0": 4, "b/0": 4, "b/1": 1}
    assert the(result, "b/0").queue_s == 3


def test_fcfs_gives_one_unit_and_its_head_blocks_those_behind() -> None:
    """Of 4 cores two are free: the one that needs 3 waits, and holds up the one that needs 1."""
    actions = [run_of(4, 2), run_of(6, 3), run_of(1, 1)]
    result = outcome(walks(*actions), "4")
    # duration_s is with one unit: 4 / 2, 6 / 3.
    assert ends(result) == {"t0/0": 2, "t1/0": 4, "t2/0": 3}
    assert the(result, "t2/0").granted_s == 2


def test_fcfs_is_strict_per_node_and_not_over_nodes() -> None:
    """Placement alternates by memory: t0 and t2 on the first node, t1 on the second."""
    actions = [run_of(5, memory_mib=1) for _ in range(3)]
    result = outcome(walks(*actions), "2x1x1Gi")
    assert {run.id: run.node for run in result.actions} == {
        "t0/0": "node0",
        "t1/0": "node1",
        "t2/0": "node0",
    }
    assert ends(result) == {"t0/0": 5, "t1/0": 5, "t2/0": 10}


def test_a_trajectory_goes_to_the_node_with_most_free_memory_and_stays() -> None:
    big = walk("a", run_of(1, memory_mib=100), run_of(1, memory_mib=300))
    small = [walk(name, run_of(1, memory_mib=100), run_of(1)) for name in "bcde"]
    result = outcome([big, *small], "2x8x1Gi")
    nodes = {run.id: run.node for run in result.actions}
    # a reserves its largest, 300, on the first node; b, c and d make the second as full; e is a tie.
    assert {name: nodes[f"{name}/0"] for name in "abcde"} == {
        "a": "node0",
        "b": "node1",
        "c": "node1",
        "d": "node1",
        "e": "node0",
    }
    assert all(nodes[f"{name}/0"] == nodes[f"{name}/1"] for name in "abcde")


def test_placement_is_at_the_first_submission_not_at_the_start() -> None:
    late = walk("a", run_of(1, gap_s=5, memory_mib=500))
    early = walk("b", run_of(9, gap_s=1, memory_mib=100))
    result = outcome([late, early], "2x8x1Gi")
    assert {run.id: run.node for run in result.actions} == {"b/0": "node0", "a/0": "node1"}


def test_a_trajectory_holds_its_memory_until_its_last_action_has_ended() -> None:
    first = walk("a", run_of(1, memory_mib=600), run_of(1, gap_s=3))
    second = walk("b", run_of(1, gap_s=0.5, memory_mib=600))
    result = outcome([first, second], "1x8x1Gi")
    assert the(result, "b/0").granted_s == 5
    assert the(result, "b/0").queue_s == 4.5


def test_nodes_without_memory_balance_trajectories_all_the_same() -> None:
    result = outcome(walks(*[run_of(1, memory_mib=1) for _ in range(4)]), "2x8")
    assert [run.node for run in result.actions] == ["node0", "node1", "node0", "node1"]
    assert not result.notes
    bare = outcome(walks(run_of(1), run_of(1)), "2x8")
    assert [run.node for run in bare.actions] == ["node0", "node0"]
    assert "no action tells its memory" in bare.notes[0]


@pytest.mark.parametrize(
    ("cores", "policy", "granted"),
    [
        ("1-32", "fcfs", 1),
        ("1-32", "fixed:4", 4),
        ("1-3", "fixed:4", 3),
        ([1, 2, 8], "fixed:4", 2),
        ([6, 8], "fixed:4", 6),
        (3, "fixed:1", 3),
        ("1-32", "backfill:16", 16),
        ("1-32", "unlimited", 32),
        ("1-32", "unlimited:8", 8),
    ],
)
def test_policies_round_their_degree_down_to_a_feasible_amount(
    cores: Any, policy: str, granted: int
) -> None:
    result = outcome(walks(run_of(64, cores, serial=0.0)), "16", policy)
    assert [hold.units for hold in the(result, "t0/0").holds] == [granted]
    assert ends(result) == {"t0/0": round(64 / granted, 6)}


def test_the_head_blocks_under_fixed_and_is_overtaken_under_backfill() -> None:
    actions = [run_of(8, "1-4", serial=0.0), run_of(6, 3), run_of(1, 1)]
    assert ends(outcome(walks(*actions), "6", "fixed:4")) == {"t0/0": 2, "t1/0": 4, "t2/0": 3}
    assert ends(outcome(walks(*actions), "6", "backfill:4"))["t2/0"] == 1


def test_unlimited_never_queues() -> None:
    result = outcome(walks(*[run_of(10, 4) for _ in range(100)]), "4", "unlimited")
    assert {run.ended_s for run in result.actions} == {2.5}
    assert result.capacities["cores", "node0"] == 4


@pytest.mark.parametrize(
    ("shape", "cores", "duration_s"),
    [
        ({"serial": 0.1}, 4, 100 * (1 + 0.1 * 3) / 4),
        ({"serial": 1.0}, 4, 100),
        ({}, 4, 25),
        ({"elasticity": {2: 0.8, 4: 0.5}}, 4, 100 / (0.5 * 4)),
        # At 3 of the table's 2 and 4: 1/3 is two thirds of the way from 1/2 to 1/4.
        ({"elasticity": {2: 0.8, 4: 0.5}}, 3, 100 / ((0.8 - 0.3 * 2 / 3) * 3)),
        ({"elasticity": {2: 0.8}}, 8, 100 / (0.8 * 8)),
    ],
)
def test_durations_follow_the_elasticity(
    shape: dict[str, Any], cores: int, duration_s: float
) -> None:
    result = outcome(walks(run_of(100, cores, **shape)), "8")
    assert the(result, "t0/0").act_s == pytest.approx(duration_s, rel=1e-12)


def test_an_action_is_cut_at_its_timeout_and_its_trajectory_goes_on() -> None:
    cut = run_of(8, "1-2", serial=0.0, timeout_s=3)
    in_time = run_of(8, "1-2", serial=0.0, timeout_s=4)
    result = outcome([walk("a", cut, run_of(1, gap_s=1)), walk("b", in_time)], "4", "fixed:2")
    assert ends(result) == {"a/0": 3, "a/1": 5, "b/0": 4}
    assert {run.id: run.timed_out for run in result.actions} == {
        "a/0": True,
        "a/1": False,
        "b/0": False,
    }
    assert all(run.state is State.FINISHED for run in result.actions)


def test_a_timeout_counts_run_time_alone() -> None:
    result = outcome(walks(run_of(5), run_of(5, timeout_s=5)), "1")
    assert not the(result, "t1/0").timed_out
    assert the(result, "t1/0").act_s == 10


def test_what_can_never_run_is_refused_at_once_and_its_trajectory_goes_on() -> None:
    result = outcome([walk("a", run_of(1), run_of(1, 9), run_of(1, gap_s=1))], "8")
    refused = the(result, "a/1")
    assert (refused.state, refused.act_s, refused.granted_s) == (State.FAILED, 0, None)
    assert "needs 9 cores, but the most that node0, the node of" in refused.reason
    assert ends(result) == {"a/0": 1, "a/1": 1, "a/2": 3}


def test_a_trajectory_that_fits_on_no_node_is_refused_whole() -> None:
    result = outcome([walk("a", run_of(1, memory_mib=2048), run_of(1))], "1x8x1Gi")
    assert [run.state for run in result.actions] == [State.FAILED, State.FAILED]
    assert "reserves 2.0 GiB" in result.actions[0].reason


def test_calls_wait_for_their_quota_and_for_nothing_else() -> None:
    calls = [walk(f"t{i}", call_of("search", 2)) for i in range(3)]
    cluster = replace(parse_nodes("1"), quotas=(QuotaSpec("search", 2),))
    result = outcome([walk("busy", run_of(9)), *calls], cluster)
    assert ends(result) == {"busy/0": 9, "t0/0": 2, "t1/0": 2, "t2/0": 4}
    assert the(result, "t2/0").resource == "quota:search"
    assert the(result, "t2/0").holds == (Hold(2, 4, 1),)


def test_a_quota_that_only_the_trace_names_has_no_limit() -> None:
    result = outcome([walk(f"t{i}", call_of("search", 2)) for i in range(50)], "1")
    assert {run.ended_s for run in result.actions} == {2}
    assert "quotas without a limit: search" in result.notes


def test_periods_of_a_quota_are_counted_by_the_view_of_the_manager() -> None:
    cluster = replace(parse_nodes("1"), quotas=(QuotaSpec("q", None, ((2, 10.0),)),))
    calls = [walk(f"t{i}", call_of("q", 1)) for i in range(5)]
    result = outcome(calls, cluster, views={QUOTA_VIEW: QuotaView})
    assert ends(result) == {"t0/0": 1, "t1/0": 1, "t2/0": 11, "t3/0": 11, "t4/0": 21}
    with pytest.raises(ValueError, match="quota q: no view was given"):
        outcome(calls, cluster)


def test_scores_take_gpus_of_the_cluster() -> None:
    cluster = replace(parse_nodes("1"), gpus=GpuSpec(1, 2))
    scores = [walk(f"t{i}", score_of(4, [1, 2], elasticity={2: 0.8})) for i in range(3)]
    assert ends(outcome(scores, cluster)) == {"t0/0": 4, "t1/0": 4, "t2/0": 8}
    wide = outcome(scores, cluster, "fixed:2")
    assert ends(wide) == {"t0/0": 2.5, "t1/0": 5, "t2/0": 7.5}
    chunked = outcome(scores, cluster, "fixed:2", views={CHUNKS_VIEW: ChunksView})
    assert ends(chunked) == ends(wide)
    without = outcome(scores, "1")
    assert {run.state for run in without.actions} == {State.FAILED}


class Resizes(Scheduler):
    """Resizes `t0/0` to so many cores at so many seconds, as a policy would."""

    plan: tuple[tuple[float, int], ...] = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._left = list(self.plan)

    def next_wakeup(self, now: float) -> float | None:
        return self._left[0][0] if self._left else super().next_wakeup(now)

    def handle(self, event: Event, now: float) -> list[Decision]:
        if isinstance(event, Tick) and self._left and self._left[0][0] <= now:
            amounts = {ResourceId("cores", "node0"): self._left.pop(0)[1]}
            event = ResizeRequested("t0/0", amounts)
        return super().handle(event, now)


def resized(*plan: tuple[float, int]) -> type[Resizes]:
    return type("Planned", (Resizes,), {"plan": plan})


def test_a_resized_action_keeps_what_it_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 s of work: 10 s with one core leave 5/6; with 5 cores that takes 12 / 6 * 5 = 10 s more."""
    monkeypatch.setattr(simulation, "Scheduler", resized((10.0, 5)))
    result = outcome(walks(run_of(60, "1-8", serial=0.0, malleable=True)), "8", "fcfs")
    run = the(result, "t0/0")
    assert run.ended_s == pytest.approx(20)
    assert run.holds == (Hold(0, 10, 1), Hold(10, run.ended_s, 5))


def test_growing_and_shrinking_back_conserves_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "Scheduler", resized((6.0, 4), (9.0, 2), (12.0, 1)))
    result = outcome(walks(run_of(60, "1-8", serial=0.0, malleable=True)), "8", "fcfs")
    run = the(result, "t0/0")
    assert [hold.units for hold in run.holds] == [1, 4, 2, 1]
    # 6 + 12 + 6 core-seconds until 12, the other 36 with one core.
    assert run.ended_s == pytest.approx(48)
    assert sum(h.units * (h.end_s - h.start_s) for h in run.holds) == pytest.approx(60)


def test_a_timeout_holds_through_a_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    action = run_of(60, "1-8", serial=0.0, malleable=True, timeout_s=20)
    monkeypatch.setattr(simulation, "Scheduler", resized((10.0, 2)))
    assert the(outcome(walks(action), "8", "fcfs"), "t0/0").timed_out
    monkeypatch.setattr(simulation, "Scheduler", resized((10.0, 6)))
    run = the(outcome(walks(action), "8", "fcfs"), "t0/0")
    assert not run.timed_out
    assert run.ended_s == pytest.approx(10 + 50 / 6)


class NeverGrants(Scheduler):
    def handle(self, event: Event, now: float) -> list[Decision]:
        decisions = super().handle(event, now)
        return [d for d in decisions if type(d).__name__ != "Grant"]


class NeverRests(NeverGrants):
    def next_wakeup(self, now: float) -> float | None:
        return now


@pytest.mark.parametrize(
    ("broken", "message"),
    [(NeverGrants, "1 actions wait for ever: t0/0"), (NeverRests, "11 ticks changed nothing")],
)
def test_a_simulation_that_stands_still_says_who_waits(
    monkeypatch: pytest.MonkeyPatch, broken: type[Scheduler], message: str
) -> None:
    monkeypatch.setattr(simulation, "Scheduler", broken)
    monkeypatch.setattr(replay, "IDLE_TICKS_MAX", 10)
    with pytest.raises(SimulationError, match=message):
        outcome(walks(run_of(1)), "1")


def test_policies_are_told_the_durations_of_elastic_actions_alone() -> None:
    told: dict[str, Any] = {}

    class Listens(Scheduler):
        def handle(self, event: Event, now: float) -> list[Decision]:
            action = getattr(event, "action", None)
            if action is not None and not isinstance(action, str):
                told[action.id] = action
            return super().handle(event, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "Scheduler", Listens)
        actions = [run_of(5), run_of(5, 4), run_of(7, "1-4", serial=0.1), run_of(9, "1-2")]
        run = partial(outcome, walks(*actions), "8")
        right = {run.id: run.ended_s for run in run().actions}
        profiles = {name: action.profile for name, action in told.items()}
        assert [profiles[f"t{i}/0"].duration_s for i in range(4)] == [None, None, 7, 9]
        assert profiles["t2/0"].serial == 0.1
        # A wrong profile changes what is told, never what is true.
        wrong = {r.id: r.ended_s for r in run(policy="fcfs", profile_noise=0.5, seed=3).actions}
        assert told["t0/0"].profile.duration_s is None
        assert told["t2/0"].profile.duration_s not in (None, 7)
        assert wrong == {r.id: r.ended_s for r in run(policy="fcfs").actions}
    assert right.keys() == wrong.keys()


def test_noise_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="noise is a sigma from 0"):
        outcome(walks(run_of(1)), "1", profile_noise=-1.0)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown policy 'best'"):
        outcome(walks(run_of(1)), "1", "best")


def test_an_empty_trace_has_an_empty_result() -> None:
    assert outcome([], "1").actions == []
    assert outcome([walk("a")], "1").actions == []


def test_the_kind_as_written_reaches_the_result() -> None:
    action = replace(run_of(1), kind="test")
    assert the(outcome(walks(action), "1"), "t0/0").kind == "test"


def test_actions_are_learned_of_by_their_signature_else_by_service_or_kind() -> None:
    test, shell = replace(run_of(1), kind="test"), replace(run_of(1), signature="pytest")
    [staged] = stage([walk("a", test, shell, score_of(1, [1, 2]), run_of(1))])
    assert [one.action.signature for one in staged] == ["test", "pytest", "rm", ""]


def test_what_changes_nothing_in_a_trace_is_told_of() -> None:
    line = '{"trajectory": "a", "turn": 3, "actions": [{"kind": "exec", "duration_s": 1, "serail": 0}]}'
    [note] = [n for n in outcome(read(line), "1").notes if "change nothing" in n]
    assert note == "keys that change nothing, in 1 line of the trace: 'serail' (serial?), 'turn'"
    assert not any("change nothing" in n for n in outcome(walks(run_of(1)), "1").notes)


def test_a_range_without_a_curve_is_told_of() -> None:
    curves = [run_of(1, "1-4", serial=0.0), run_of(1, "1-4", elasticity={4: 0.9}), run_of(1, 2)]
    assert not any("scaled perfectly" in n for n in outcome(walks(*curves), "4").notes)
    [note] = [n for n in outcome(walks(run_of(1, "1-4"), *curves), "4").notes if "perfectly" in n]
    assert "neither serial nor elasticity: 1;" in note


# What a recorded trace says of a server's own time


def test_the_start_of_a_sandbox_delays_the_grant_and_holds_nothing() -> None:
    """a is known from 0 to 3 and may run from 2 on; b, which comes second, runs before it."""
    slow = run_of(1, sandbox_prepare_s=2)
    result = outcome([walk("a", slow), walk("b", run_of(1.5))], "1")
    assert ends(result) == {"a/0": 3, "b/0": 1.5}
    run = the(result, "a/0")
    assert (run.queue_s, run.prepare_s, run.run_s, run.act_s) == (0, 2, 1, 3)


def test_units_are_held_while_an_action_is_made_ready_and_released() -> None:
    """a holds the core from 0 to 1 + 2 + 0.5, though it has ended at 3."""
    first = run_of(2, lease_prepare_s=1, release_s=0.5)
    result = outcome([walk("a", first), walk("b", run_of(1))], "1")
    assert ends(result) == {"a/0": 3, "b/0": 4.5}
    run = the(result, "a/0")
    assert (run.prepare_s, run.run_s) == (1, 2)
    assert run.holds == (Hold(0, 3, 1),)


def test_a_trajectory_goes_on_once_its_action_is_released() -> None:
    actions = [run_of(1, release_s=2), run_of(1, gap_s=1)]
    result = outcome([walk("a", *actions)], "1")
    assert [(run.submitted_s, run.granted_s) for run in result.actions] == [(0, 0), (2, 3)]


def test_a_timeout_does_not_count_the_time_of_making_ready() -> None:
    result = outcome([walk("a", run_of(2, lease_prepare_s=3, timeout_s=2))], "1")
    assert not the(result, "a/0").timed_out
    result = outcome([walk("a", run_of(4, lease_prepare_s=3, timeout_s=2))], "1")
    assert (the(result, "a/0").timed_out, the(result, "a/0").ended_s) == (True, 5)


def test_an_action_that_is_resized_while_it_is_made_ready_keeps_that_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4 s of work: ready at 2, from 1 on with two cores instead of one."""
    monkeypatch.setattr(simulation, "Scheduler", resized((1.0, 2)))
    action = run_of(4, "1-2", lease_prepare_s=2, malleable=True)
    result = outcome(walks(action), "2")
    assert ends(result) == {"t0/0": 4}
    assert the(result, "t0/0").holds == (Hold(0, 1, 1), Hold(1, 4, 2))


def test_pods_are_prepared_as_long() -> None:
    timed = run_of(1, sandbox_prepare_s=2, lease_prepare_s=1)
    result = outcome([walk("a", timed)], "1", "pod:request=1,limit=1")
    run = the(result, "a/0")
    assert (run.ended_s, run.prepare_s, run.queue_s, run.run_s) == (4, 3, 0, 1)
