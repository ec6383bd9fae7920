"""The search for the smallest pool: what it finds, what it proves, how often it evaluates."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.scheduler.model import Amounts, State
from tangram.scheduler.simulator.cluster import parse_nodes
from tangram.scheduler.simulator.planner import (
    Dimension,
    SearchResult,
    Size,
    Target,
    search,
    smallest,
    unqueued,
    waiting_shares,
)
from tangram.scheduler.simulator.result import ActionRun, SimulationResult
from tangram.scheduler.simulator.simulation import simulate
from tangram.scheduler.simulator.trace import TraceAction, TraceTrajectory


def ran(
    act_s: float,
    queue_s: float = 0.0,
    resource: str = "cores",
    trajectory: str = "t",
    state: State = State.FINISHED,
) -> ActionRun:
    return ActionRun(
        id="a",
        trajectory=trajectory,
        task="default",
        kind="exec",
        resource=resource,
        node="node0",
        submitted_s=10.0,
        granted_s=10.0 + queue_s,
        ended_s=10.0 + act_s,
        state=state,
    )


def result(*actions: ActionRun) -> SimulationResult:
    return SimulationResult("fcfs", actions, {("cores", "node0"): 4}, start_s=5.0)


def found_with(evaluate: Callable[[Size], float], *largest: int, guess: int = 1) -> SearchResult:
    dimensions = [Dimension(f"d{index}", guess, most) for index, most in enumerate(largest)]
    return search(lambda size: evaluate(size) / 2.0, dimensions)


@given(needed=st.integers(1, 300), guess=st.integers(1, 400), largest=st.integers(1, 300))
def test_the_smallest_size_is_found_from_any_guess_in_few_steps(
    needed: int, guess: int, largest: int
) -> None:
    asked: list[int] = []

    def meets(number: int) -> bool:
        asked.append(number)
        return number >= needed

    found = smallest(meets, guess, largest)
    assert found == (needed if needed <= largest else None)
    assert all(1 <= number <= largest for number in asked)
    assert len(asked) <= 2 * math.log2(max(largest, guess)) + 4


@given(seed=st.integers(0, 2**32), needed=st.integers(1, 40))
def test_where_sizes_are_not_quite_monotone_the_answer_meets_and_the_one_below_does_not(
    seed: int, needed: int
) -> None:
    dice = random.Random(seed)
    verdicts = [size >= needed + dice.choice((-2, -1, 0, 1, 2)) for size in range(60)]
    found = smallest(lambda size: verdicts[size], dice.randint(1, 59), 59)
    assert found is not None
    assert verdicts[found]
    assert found == 1 or not verdicts[found - 1]


def test_a_target_that_the_largest_pool_misses_has_no_plan() -> None:
    found = found_with(lambda size: 100.0 / size[0], 16)
    assert found.size is None
    assert found.tried[(16,)] == 6.25 / 2.0


def test_no_dimension_of_a_plan_can_be_lowered() -> None:
    def evaluate(size: Size) -> float:
        nodes, gpus = size
        return max(12.0 / nodes, 6.0 / gpus)

    found = found_with(evaluate, 64, 64)
    assert found.size == (6, 3)
    assert found.steady
    assert found.tried[(5, 64)] > 1
    assert found.tried[(6, 2)] > 1


def test_every_size_is_evaluated_once() -> None:
    asked: list[Size] = []

    def evaluate(size: Size) -> float:
        asked.append(size)
        return max(40.0 / size[0], 22.0 / size[1])

    found_with(evaluate, 64, 64, guess=7)
    assert len(asked) == len(set(asked))


def test_a_plan_whose_larger_neighbour_misses_is_not_steady() -> None:
    found = found_with(lambda size: 1.0 if size[0] in (4, 7, 8) else 3.0, 8)
    assert found.size == (4,)
    assert not found.steady


@pytest.mark.parametrize(
    ("statistic", "figure"),
    [
        ("mean", 3.0),
        ("p50", 2.0),
        ("p75", 4.0),
        ("max", 6.0),
        ("queue", 1.0),
        ("trajectory", 4.5),
        ("makespan", 11.0),
    ],
)
def test_each_statistic_of_a_target_is_read_from_a_result(statistic: str, figure: float) -> None:
    done = result(ran(1.0), ran(2.0, 1.0, trajectory="u"), ran(6.0, 2.0, trajectory="u"))
    if statistic == "trajectory":
        assert Target(statistic, 1.0).of(done) == pytest.approx((1.0 + 8.0) / 2)
        return
    assert Target(statistic, 1.0).of(done) == pytest.approx(figure)


def test_an_action_that_never_finished_misses_every_target() -> None:
    done = result(ran(1.0), ran(0.1, state=State.FAILED))
    assert Target("p50", 1e9).of(done) == math.inf


@pytest.mark.parametrize("statistic", ["p0", "p100", "p", "median", "", "P95", "p95x"])
def test_another_statistic_is_refused_with_those_that_exist(statistic: str) -> None:
    with pytest.raises(ValueError, match="write mean, p1 to p99"):
        Target(statistic, 1.0)


@pytest.mark.parametrize("limit_s", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_that_nothing_can_meet_or_everything_meets_is_refused(limit_s: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        Target("mean", limit_s)


def traced(*actions: TraceAction) -> list[TraceTrajectory]:
    return [TraceTrajectory("t", "default", 5.0, actions)]


def test_unqueued_every_action_runs_at_its_fastest_amount_that_a_node_has() -> None:
    elastic = TraceAction("test", 1.0, 64.0, Amounts.between(1, 32), serial=0.0)
    table = TraceAction("score", 1.0, 8.0, Amounts.among([1, 2, 4]), elasticity={2: 1.0, 4: 0.25})
    call = TraceAction("call", 1.0, 3.0, quota="search")
    ideal = unqueued(traced(elastic, table, call), cores=16, gpus=8)
    assert [run.act_s for run in ideal.actions] == pytest.approx([4.0, 4.0, 3.0])
    assert [run.submitted_s for run in ideal.actions] == pytest.approx([6.0, 11.0, 16.0])
    assert Target("makespan", 1.0).of(ideal) == pytest.approx(14.0)


def test_unqueued_a_timeout_cuts_and_an_action_too_large_for_a_node_fails() -> None:
    cut = TraceAction("exec", 0.0, 9.0, timeout_s=2.0)
    large = TraceAction("exec", 0.0, 9.0, Amounts.exactly(4))
    assert Target("mean", 1.0).of(unqueued(traced(cut), 2, 0)) == 2.0
    assert Target("mean", 1.0).of(unqueued(traced(large), 2, 0)) == math.inf


def test_with_the_real_simulator_the_smallest_pool_is_where_one_node_less_misses() -> None:
    """Ten trajectories of one command of a second each, all at once, on nodes of one core: with n
    nodes the slowest waits for ceil(10 / n) - 1 others."""
    action = TraceAction("exec", 0.0, 1.0, memory_mib=1.0)
    trace = [TraceTrajectory(f"t{n}", "default", 0.0, (action,)) for n in range(10)]
    target = Target("max", 2.5)

    def evaluate(size: Size) -> float:
        return target.strain(simulate(trace, parse_nodes(f"{size[0]}x1x1Gi"), "fcfs"))

    found = search(evaluate, [Dimension("nodes", 1, 16)])
    assert found.size == (5,)
    assert found.steady
    assert found.tried[(4,)] == pytest.approx(3.0 / 2.5)


def test_waiting_is_shared_out_by_resource_largest_first() -> None:
    done = result(ran(4.0, 1.0), ran(4.0, 3.0, "quota:search"), ran(1.0, 0.0, "gpus"))
    assert waiting_shares(done) == {"quota:search": 0.75, "cores": 0.25}
    assert list(waiting_shares(done)) == ["quota:search", "cores"]
    assert waiting_shares(result(ran(1.0))) == {}
