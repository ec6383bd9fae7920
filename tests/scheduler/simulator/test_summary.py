"""The figures of a simulation, each from runs that can be added up by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.scheduler.simulator.summary import percentile, summarise

from .worlds import outcome, run_of, walk, walks

DOCUMENTED = [
    "policy",
    "mean_act_s",
    "p50_act_s",
    "p95_act_s",
    "mean_queue_s",
    "traj_act_s",
    "makespan_s",
    "core_utilisation",
    "lower_bound_s",
]


def test_the_documented_figures_come_first_and_are_right() -> None:
    """One core of two nodes each, from 1 s on: t0 runs 2 and then, a gap of 1 later, 3; t1 takes 6
    on the other node. ACTs 2, 3, 6; 11 core-seconds of 2 * 6."""
    t0 = walk("t0", run_of(2, memory_mib=1), run_of(3, gap_s=1), start_s=1)
    t1 = walk("t1", run_of(6, memory_mib=1), start_s=1)
    figures = summarise(outcome([t0, t1], "2x1"))
    assert list(figures)[:9] == DOCUMENTED
    assert figures["policy"] == "fcfs"
    assert figures["mean_act_s"] == pytest.approx(11 / 3)
    assert figures["p50_act_s"] == 3
    assert figures["p95_act_s"] == pytest.approx(3 + 0.9 * 3)
    assert figures["mean_queue_s"] == 0
    assert figures["traj_act_s"] == pytest.approx((5 + 6) / 2)
    assert figures["makespan_s"] == 6
    assert figures["core_utilisation"] == pytest.approx(11 / 12)
    assert figures["lower_bound_s"] == pytest.approx(11 / 3)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_queueing_is_told_apart_from_running_by_kind() -> None:
    figures = summarise(outcome(walks(run_of(4, 2), run_of(4, 2)), "2"))
    assert figures["mean_queue_s"] == 1
    assert figures["by_kind"]["exec"] == {
        "actions": 2,
        "mean_act_s": 3,
        "p95_act_s": pytest.approx(3.9),
        "mean_queue_s": 1,
        "mean_prepare_s": 0,
        "mean_run_s": 2,
        "mean_units": 2,
    }


def test_refused_actions_are_in_no_mean_and_are_counted() -> None:
    figures = summarise(outcome(walks(run_of(4), run_of(1, 99)), "2"))
    assert (figures["mean_act_s"], figures["traj_act_s"], figures["p50_act_s"]) == (4, 4, 4)
    assert figures["states"] == {"failed": 1, "finished": 1}
    assert list(figures["reasons"].values()) == [1]
    assert "needs 99 cores" in next(iter(figures["reasons"]))


def test_of_nothing_there_are_no_figures() -> None:
    figures = summarise(outcome([], "2"))
    assert all(figures[name] is None for name in DOCUMENTED[1:])


def test_cut_actions_count_with_the_time_they_took() -> None:
    figures = summarise(outcome(walks(run_of(9, timeout_s=4)), "2"))
    assert (figures["mean_act_s"], figures["timed_out"]) == (4, 1)
    assert figures["lower_bound_s"] == pytest.approx(4)


def test_a_bound_that_is_reached_is_not_above_the_mean() -> None:
    trajectories = [walk(f"t{i}", run_of(1 / 3, gap_s=i / 7), start_s=1e4) for i in range(50)]
    figures = summarise(outcome(trajectories, "64", "unlimited"))
    assert figures["mean_act_s"] == pytest.approx(figures["lower_bound_s"], rel=1e-8)
    assert figures["mean_act_s"] >= figures["lower_bound_s"]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([7], 0.95, 7), ([1, 2], 0.5, 1.5), ([0, 10, 20], 0.95, 19), ([1, 9], 1, 9)],
)
def test_percentiles_are_interpolated(
    values: list[float], share: float, expected: float | None
) -> None:
    assert percentile(values, share) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_has_its_share_on_each_side(values: list[float], share: float) -> None:
    found = percentile(sorted(values), share)
    assert found is not None
    assert sum(value <= found + 1e-6 for value in values) >= share * (len(values) - 1)
    assert sum(value >= found - 1e-6 for value in values) >= (1 - share) * (len(values) - 1)
