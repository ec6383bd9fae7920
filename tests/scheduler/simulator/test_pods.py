"""Pods, the baseline: shares, queues and limits worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.quota import QUOTA_VIEW, QuotaView
from tangram.scheduler.model import Profile, State
from tangram.scheduler.simulator.cluster import GpuSpec, QuotaSpec, parse_nodes
from tangram.scheduler.simulator.kernel_share import SharedNode, level, speed
from tangram.scheduler.simulator.podspec import PodSpec, parse_pod
from tangram.scheduler.simulator.result import Hold

from .worlds import acts, call_of, ends, outcome, run_of, score_of, the, walk, walks

ROOMY = "pod:request=0.1,limit=4"


def test_an_action_runs_at_once_with_what_it_can_use_at_most_the_limit() -> None:
    actions = [run_of(8, "1-32", serial=0.0), run_of(8, "1-2", serial=0.0), run_of(8)]
    result = outcome(walks(*actions), "16", ROOMY)
    assert ends(result) == {"t0/0": 2, "t1/0": 4, "t2/0": 8}
    assert the(result, "t0/0").holds == (Hold(0, 2, 4),)
    assert all(run.queue_s == 0 for run in result.actions)


def test_cores_of_an_overcommitted_node_are_shared_max_min_fairly() -> None:
    """3 cores among caps 1, 4, 4: each gets 1 until the first has done its 2; then 1.5 each."""
    wide = run_of(6, "1-4", serial=0.0)
    result = outcome(walks(run_of(2), wide, wide), "3", ROOMY)
    # At 2 the wide ones have 4 left of 6, at 1.5 cores each: 2 + 4 / 1.5.
    assert ends(result) == {"t0/0": 2, "t1/0": 4.666667, "t2/0": 4.666667}
    assert the(result, "t1/0").holds[0].units == pytest.approx(6 / (2 + 4 / 1.5))


def test_less_than_a_core_each_slows_all_down() -> None:
    """Four of one core on one core: a quarter each. The first needs 1, so 4 s; then a third each:
    the others have 1 left of 2, 3 s more."""
    result = outcome(walks(run_of(1), run_of(2), run_of(2), run_of(2)), "1", ROOMY)
    assert ends(result) == {"t0/0": 4, "t1/0": 7, "t2/0": 7, "t3/0": 7}


def test_an_arrival_slows_those_that_run() -> None:
    """One core: the first is alone for 1 s, then shares: 3 left at half speed until 7."""
    late = walk("b", run_of(4, gap_s=1))
    result = outcome([walk("a", run_of(4)), late], "1", ROOMY)
    assert ends(result) == {"a/0": 7, "b/0": 8}


def test_elasticity_counts_at_fractional_shares() -> None:
    """Two of up to 4 cores on 3: 1.5 each, 1 + 0.2 * 0.5 = 1.1, so 1.5 / 1.1 of one core's speed."""
    wide = run_of(3, "1-4", serial=0.2)
    result = outcome(walks(wide, wide), "3", ROOMY)
    assert ends(result) == {"t0/0": round(3 * 1.1 / 1.5, 6), "t1/0": round(3 * 1.1 / 1.5, 6)}


@pytest.mark.parametrize(
    ("profile", "cores", "expected"),
    [
        (Profile(1.0, serial=0.5), 0.25, 0.25),
        (Profile(1.0, serial=0.5), 1.0, 1.0),
        (Profile(1.0, serial=0.5), 3.0, 1.5),
        (Profile(1.0, serial=0.5), 1.5, 1.2),
        (Profile(1.0, {2: 0.8, 4: 0.5}), 2.0, 1.6),
        (Profile(1.0, {2: 0.8, 4: 0.5}), 3.0, 1.8),
        (Profile(1.0, {2: 0.8, 4: 0.5}), 3.5, 1.9),
        (Profile(1.0, {2: 0.8}), 4.5, 3.6),
    ],
)
def test_the_speed_of_a_share(profile: Profile, cores: float, expected: float) -> None:
    assert speed(profile, cores) == pytest.approx(expected)
    if cores >= 1 and cores == math.floor(cores):
        assert 1 / speed(profile, cores) == pytest.approx(profile.run_s(int(cores)))


def test_pods_wait_for_the_cap_and_are_held_until_the_trajectory_ends() -> None:
    """One pod at a time: b is asked for at 0 and comes at 5, when a has ended with all its gaps."""
    a = walk("a", run_of(1), run_of(1, gap_s=3))
    b = walk("b", run_of(1, gap_s=2))
    result = outcome([a, b], "8", "pod:request=0.5,limit=4,pods=1")
    assert ends(result) == {"a/0": 1, "a/1": 5, "b/0": 6}
    # The action is there since 2: its ACT includes the wait for the pod.
    assert (the(result, "b/0").queue_s, the(result, "b/0").act_s) == (3, 4)


def test_requests_limit_how_many_pods_fit_without_a_cap() -> None:
    result = outcome(walks(*[run_of(1) for _ in range(3)]), "1", "pod:request=0.5,limit=1")
    assert acts(result) == {"t0/0": 2, "t1/0": 2, "t2/0": 3}
    assert PodSpec(0.1, 1).slots(256) == 2560
    assert PodSpec(0.5, 4, 110).slots(256) == 110
    assert PodSpec(0.5, 4, 110).slots(4) == 8


def test_pods_queue_by_start_time_not_by_the_order_of_the_trace() -> None:
    busy = walk("busy", run_of(10))
    late, early = walk("late", run_of(1), start_s=3), walk("early", run_of(1), start_s=2)
    result = outcome([late, early, busy], "8", "pod:request=1,limit=1,pods=1")
    assert ends(result) == {"busy/0": 10, "early/0": 11, "late/0": 12}


def test_pods_go_where_most_memory_is_free_and_keep_it() -> None:
    actions = [run_of(5, memory_mib=n) for n in (300, 100, 100, 100, 100)]
    result = outcome(walks(*actions), "2x8x1Gi", ROOMY)
    nodes = {run.id: run.node for run in result.actions}
    assert [nodes[f"t{i}/0"] for i in range(5)] == ["node0", "node1", "node1", "node1", "node0"]


def test_the_first_pod_in_the_queue_holds_up_the_rest() -> None:
    sizes = (700, 600, 100)
    result = outcome(walks(*[run_of(2, memory_mib=n) for n in sizes]), "1x8x1Gi", ROOMY)
    assert ends(result) == {"t0/0": 2, "t1/0": 4, "t2/0": 4}


def test_a_pod_comes_after_its_delay_and_at_the_rate() -> None:
    three = walks(*[run_of(1) for _ in range(3)])
    assert acts(outcome(three, "8", ROOMY + ",delay=5")) == {"t0/0": 6, "t1/0": 6, "t2/0": 6}
    assert acts(outcome(three, "8", ROOMY + ",rate=2")) == {"t0/0": 1, "t1/0": 1.5, "t2/0": 2}
    # A gap that is longer than the delay hides it.
    hidden = outcome([walk("a", run_of(1, gap_s=9))], "8", ROOMY + ",delay=5")
    assert the(hidden, "a/0").act_s == 1


def test_a_pod_that_no_node_could_hold_is_refused_and_holds_up_nobody() -> None:
    result = outcome(walks(run_of(1, memory_mib=2048), run_of(1)), "1x8x1Gi", ROOMY)
    assert the(result, "t0/0").state is State.FAILED
    assert the(result, "t1/0").act_s == 1
    # Nor is there room for any pod of eight cores on a node of four.
    whole = outcome(walks(run_of(1)), "4", "pod:request=8,limit=8")
    assert "no node could ever hold the pod" in the(whole, "t0/0").reason


def test_an_action_is_cut_at_its_timeout() -> None:
    result = outcome([walk("a", run_of(9, timeout_s=2), run_of(1))], "8", ROOMY)
    assert ends(result) == {"a/0": 2, "a/1": 3}
    assert [run.timed_out for run in result.actions] == [True, False]


def test_a_cut_action_leaves_its_share_to_the_others() -> None:
    result = outcome(walks(run_of(9, timeout_s=2), run_of(3)), "1", ROOMY)
    assert ends(result) == {"t0/0": 2, "t1/0": 4}


def test_calls_and_scores_queue_at_their_least_amounts() -> None:
    quotas = (QuotaSpec("q", 1), QuotaSpec("slow", None, ((1, 10.0),)))
    cluster = replace(parse_nodes("1"), gpus=GpuSpec(1, 2), quotas=quotas)
    trajectories = [
        *[walk(f"c{i}", call_of("q", 2)) for i in range(2)],
        *[walk(f"s{i}", score_of(3, [1, 2])) for i in range(3)],
        *[walk(f"w{i}", call_of("slow", 1)) for i in range(2)],
        walk("huge", score_of(3, [4])),
    ]
    result = outcome(trajectories, cluster, ROOMY, views={QUOTA_VIEW: QuotaView})
    assert ends(result) == {
        "c0/0": 2,
        "c1/0": 4,
        "s0/0": 3,
        "s1/0": 3,
        "s2/0": 6,
        "w0/0": 1,
        "w1/0": 11,
        "huge/0": 0,
    }
    assert the(result, "huge/0").reason == "needs 4 of gpus, the most is 2"


@pytest.mark.parametrize(
    "text",
    [
        "pod",
        "pod:",
        "pod:request=1",
        "pod:limit=1",
        "pod:request=0,limit=1",
        "pod:request=1,limit=-1",
        "pod:request=1,limit=nan",
        "pod:request=1,limit=inf",
        "pod:request=1,limit=1,pods=0",
        "pod:request=1,limit=1,pods=1.5",
        "pod:request=1,limit=1,delay=-1",
        "pod:request=1,limit=1,limit=2",
        "pod:request=1,limit=1,cores=2",
        "pod:request=1,limit=x",
    ],
)
def test_malformed_pods_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pod"):
        parse_pod(text)


def test_pods_are_read() -> None:
    text = "pod:request=0.5,limit=4,pods=110,delay=5,rate=20"
    assert parse_pod(text) == PodSpec(0.5, 4, 110, 5, 20)
    assert parse_pod("pod:limit=1,request=1") == PodSpec(1, 1, None, 0, None)


caps = st.lists(st.floats(0.1, 64), min_size=1, max_size=12)


@given(caps, st.integers(1, 64))
def test_sharing_gives_all_cores_or_all_that_is_asked(asked: list[float], cores: int) -> None:
    most = level(cores, [(cap, 1) for cap in sorted(asked)])
    shares = [min(cap, most) for cap in asked]
    assert sum(shares) == pytest.approx(min(cores, sum(asked)))


members = st.lists(
    st.tuples(st.floats(0, 5), st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.floats(0.01, 5)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(members, st.integers(1, 6))
def test_shared_nodes_agree_with_a_simulation_in_small_steps_of_each_event(
    jobs: list[tuple[float, float, float]], cores: int
) -> None:
    """Against the plain rule: at every event, all shares are worked out anew, one by one."""
    profile = Profile(1.0, serial=0.1)
    jobs = sorted(jobs)
    node, found = SharedNode(cores), dict[int, float]()
    arrivals, running = list(enumerate(jobs)), dict[int, int]()
    while arrivals or running:
        soonest = node.next_end()
        if arrivals and (soonest is None or arrivals[0][1][0] <= soonest[0]):
            index, (now, cap, work) = arrivals.pop(0)
            node.advance(now)
            running[node.add(cap, profile, work)] = index
        else:
            assert soonest is not None
            now = soonest[0]
            node.advance(now)
            node.remove(soonest[1])
            found[running.pop(soonest[1])] = now
    assert found == pytest.approx(plainly_shared(jobs, cores, profile), rel=1e-6, abs=1e-6)


def plainly_shared(
    jobs: list[tuple[float, float, float]], cores: int, profile: Profile
) -> dict[int, float]:
    left = {index: work for index, (_, _, work) in enumerate(jobs)}
    ended: dict[int, float] = {}
    now = 0.0
    while left:
        here = [index for index in left if jobs[index][0] <= now]
        most = level(cores, sorted((jobs[index][1], 1) for index in here))
        speeds = {index: speed(profile, min(jobs[index][1], most)) for index in here}
        times = [now + left[index] / speeds[index] for index in here]
        times += [jobs[index][0] for index in left if jobs[index][0] > now]
        until = min(times)
        for index in here:
            left[index] -= speeds[index] * (until - now)
            if left[index] <= 1e-12:
                del left[index]
                ended[index] = until
        now = until
    return ended
