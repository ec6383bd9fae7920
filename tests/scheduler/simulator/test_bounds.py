"""Lower bounds, worked out by hand where they are tight, and kept by every policy on any trace."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.managers.gpu import CHUNKS_VIEW, ChunksView
from tangram.managers.quota import QUOTA_VIEW, QuotaView
from tangram.scheduler import State
from tangram.scheduler.model import Amounts
from tangram.scheduler.simulator.bounds.srpt import sum_of_ends
from tangram.scheduler.simulator.cluster import GpuSpec, QuotaSpec, parse_nodes
from tangram.scheduler.simulator.result import SimulationResult
from tangram.scheduler.simulator.trace import TraceAction, TraceTrajectory

from .worlds import outcome, run_of, walk, walks

POLICIES = (
    "fcfs",
    "fixed:3",
    "backfill:2",
    "unlimited",
    "unlimited:2",
    "arl-tangram",
    "elastic",
    "pod:request=0.5,limit=2,pods=3",
    "pod:request=0.1,limit=8",
)


def test_no_action_is_faster_than_at_its_fastest_amount() -> None:
    actions = [run_of(64, "1-32", serial=0.0), run_of(6), run_of(8, [1, 2, 64], serial=0.0)]
    result = outcome(walks(*actions), "16")
    # 64 on all 16 cores; the amount 64 is more than a node has.
    assert result.lower_bounds_s["fastest"] == pytest.approx((4 + 6 + 4) / 3)


def test_work_and_shortest_first_bound_what_queues() -> None:
    """One core, works of 1, 2 and 4 at once: ends at 1, 3 and 7, which a policy can reach."""
    result = outcome(walks(run_of(1), run_of(2), run_of(4)), "1")
    assert result.lower_bounds_s["srpt"] == pytest.approx(11 / 3)
    assert sum(run.act_s for run in result.actions) == pytest.approx(11)


def test_the_bound_by_work_holds_for_closed_loops() -> None:
    """Two trajectories of a command and a long action each, one core: the long ones are what fills
    it. They come at 3 at the earliest; with 10 each the ends are 13 and 23, less starts and gaps."""
    each = (run_of(1, gap_s=1), run_of(10, gap_s=1))
    result = outcome([walk("a", *each), walk("b", *each)], "1")
    assert result.lower_bounds_s["srpt"] == pytest.approx((13 + 23 - 2 * 2) / 4)


def test_a_price_bounds_open_arrivals_better_than_work_alone() -> None:
    """Ten cores, each second an action that would like all of them for 1.9 s but leaves next to
    nothing for the next: whoever takes fewer runs longer."""
    trajectories = [walk(f"t{i}", run_of(10, "1-10", serial=0.1), start_s=i) for i in range(60)]
    bounds = outcome(trajectories, "10", "fixed:5").lower_bounds_s
    assert bounds["fastest"] == pytest.approx(1.9)
    assert bounds["price"] > 1.3 * bounds["fastest"]
    assert bounds["price"] > bounds["srpt"]


def test_each_bound_is_given_only_where_it_holds() -> None:
    arrivals = [walk("a", run_of(1)), walk("b", run_of(1), start_s=1)]
    assert set(outcome(arrivals, "1").lower_bounds_s) == {"fastest", "srpt", "price"}
    assert set(outcome(arrivals, "1", "unlimited").lower_bounds_s) == {"fastest"}
    pods = outcome(arrivals, "1", "pod:request=1,limit=1")
    assert set(pods.lower_bounds_s) == {"fastest", "srpt"}
    malleable = [walk("a", run_of(4, "1-2", serial=0.1, malleable=True))]
    assert set(outcome(malleable, "2").lower_bounds_s) == {"fastest", "srpt"}
    chain = [walk("a", run_of(1), run_of(1))]
    assert set(outcome(chain, "1").lower_bounds_s) == {"fastest", "srpt"}
    assert outcome(walks(run_of(1, 9)), "1").lower_bounds_s == {}


jobs = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=4)


@given(jobs)
def test_shortest_remaining_first_is_best_of_all_orders(found: list[tuple[int, int]]) -> None:
    """Against every order of priorities, each served preemptively in unit steps."""
    best = math.inf
    for order in itertools.permutations(range(len(found))):
        left = {index: length for index, (_, length) in enumerate(found)}
        now = total = 0
        while left:
            ready = [index for index in order if index in left and found[index][0] <= now]
            now += 1
            if ready:
                left[ready[0]] -= 1
                if not left[ready[0]]:
                    del left[ready[0]]
                    total += now
        best = min(best, total)
    assert sum_of_ends(sorted((float(r), float(p)) for r, p in found)) == pytest.approx(best)


def random_trace(generator: random.Random) -> list[TraceTrajectory]:
    """Closed loops or single actions, of all shapes that there are."""
    single = generator.random() < 0.5
    return [
        TraceTrajectory(
            f"t{index}",
            "task",
            generator.uniform(0, 10),
            tuple(
                random_action(generator) for _ in range(1 if single else generator.randint(1, 4))
            ),
        )
        for index in range(generator.randint(1, 25))
    ]


def random_action(generator: random.Random) -> TraceAction:
    shape = generator.choice(["one", "one", "range", "set", "table", "wide", "call", "score"])
    common: dict[str, Any] = {
        "gap_s": generator.choice([0.0, generator.expovariate(1.0)]),
        "duration_s": generator.lognormvariate(1.0, 1.0),
        "memory_mib": generator.choice([0, 10, 100]),
        "timeout_s": generator.choice([None, None, None, generator.uniform(0.5, 9)]),
    }
    if shape == "call":
        return TraceAction("call", quota="search", quota_amount=generator.choice([1, 2]), **common)
    if shape == "score":
        table = {4: generator.uniform(0.3, 1)}
        gpus = Amounts.among([1, 2, 4])
        return TraceAction("score", amounts=gpus, elasticity=table, service="rm", **common)
    if shape == "one":
        return TraceAction("exec", amounts=Amounts.exactly(generator.choice([1, 1, 3])), **common)
    if shape == "wide":
        return TraceAction("exec", amounts=Amounts.exactly(40), **common)
    if shape == "table":
        table = {2: generator.uniform(0.5, 1), 6: generator.uniform(0.1, 1)}
        return TraceAction("exec", amounts=Amounts.between(1, 8), elasticity=table, **common)
    amounts = Amounts.between(1, 12) if shape == "range" else Amounts.among([1, 2, 4, 8])
    serial = generator.choice([0.0, 0.03, 0.3])
    malleable = generator.random() < 0.2
    return TraceAction("exec", amounts=amounts, serial=serial, malleable=malleable, **common)


def random_outcome(seed: int, nodes: str, policy: str) -> SimulationResult:
    """Beside the nodes four GPUs, and three units of a quota."""
    cluster = replace(
        parse_nodes(nodes), gpus=GpuSpec(1, 4), quotas=(QuotaSpec("search", 3, ((5, 2.0),)),)
    )
    views = {CHUNKS_VIEW: ChunksView, QUOTA_VIEW: QuotaView}
    return outcome(random_trace(random.Random(seed)), cluster, policy, views=views)


def mean_act_s(result: SimulationResult) -> float:
    acts = [run.act_s for run in result.actions if run.state is State.FINISHED]
    return sum(acts) / len(acts) if acts else math.inf


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**9), nodes=st.sampled_from(["1x4x1Gi", "2x6x200Mi", "3x2", "1x30"]))
def test_no_policy_beats_a_bound_on_any_trace(policy: str, seed: int, nodes: str) -> None:
    result = random_outcome(seed, nodes, policy)
    for name, bound_s in result.lower_bounds_s.items():
        assert mean_act_s(result) >= bound_s * (1 - 1e-9), (name, seed)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**9), nodes=st.sampled_from(["1x4x1Gi", "2x6x200Mi", "1x30"]))
def test_every_action_ends_once_and_no_unit_is_held_twice(
    policy: str, seed: int, nodes: str
) -> None:
    trace = random_trace(random.Random(seed))
    result = random_outcome(seed, nodes, policy)
    names = [f"{t.id}/{index}" for t in trace for index in range(len(t.actions))]
    assert sorted(run.id for run in result.actions) == sorted(names)
    assert [run.ended_s for run in result.actions] == sorted(run.ended_s for run in result.actions)
    follows_its_predecessor(trace, result)
    if not policy.startswith(("unlimited", "pod")):
        no_more_than_there_is(result)
    assert random_outcome(seed, nodes, policy) == result


def follows_its_predecessor(trace: list[TraceTrajectory], result: SimulationResult) -> None:
    runs = {run.id: run for run in result.actions}
    for trajectory in trace:
        before_s = trajectory.start_s
        for index, action in enumerate(trajectory.actions):
            run = runs[f"{trajectory.id}/{index}"]
            assert run.submitted_s == before_s + action.gap_s
            assert run.ended_s >= run.submitted_s
            before_s = run.ended_s


def no_more_than_there_is(result: SimulationResult) -> None:
    changes: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in result.actions:
        for hold in run.holds:
            found = changes.setdefault((run.resource, run.node), [])
            found += [(hold.start_s, hold.units), (hold.end_s, -hold.units)]
    for where, found in changes.items():
        held = 0.0
        for _, units in sorted(found):
            held += units
            assert held <= result.capacities[where]
