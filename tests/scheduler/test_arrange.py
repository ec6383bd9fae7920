"""The table of least totals equals trying everything, for both operators and for each prefix."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tangram.scheduler import grids
from tangram.scheduler.arrange import tabulate
from tangram.scheduler.choices import Choices
from tangram.scheduler.operators import ChunkCounts, LinearUnits, Operator, level_of

from .brute import (
    any_choices,
    chunk_counts,
    feasible,
    least_total_s,
    linear_units,
    steady_choices,
    total_s,
)

EIGHTHS = st.integers(0, 800).map(lambda eighths: eighths / 8)
"""Sums of these are exact in any order."""
SECONDS = st.floats(0, 100, allow_nan=False)


def amdahl(seconds: float, serial: float, units: range | tuple[int, ...]) -> Choices:
    return Choices.of((m, seconds * (serial + (1 - serial) / m)) for m in units)


def assert_equals_brute_force(candidates: list[Choices], operator: Operator) -> None:
    table = tabulate(candidates, operator)
    for count in range(len(candidates) + 1):
        least_s = least_total_s(candidates[:count], operator)
        if count > table.longest:
            assert least_s == math.inf
            continue
        amounts = table.amounts(count)
        assert table.total_s(count) == least_s
        assert total_s(candidates[:count], amounts) == least_s
        assert feasible(operator, amounts)


# Equal to trying everything


@settings(max_examples=100, deadline=None)
@given(st.lists(any_choices(EIGHTHS), max_size=4), linear_units)
def test_linear_units_any_durations(candidates: list[Choices], operator: LinearUnits) -> None:
    assert_equals_brute_force(candidates, operator)


@settings(max_examples=100, deadline=None)
@given(st.lists(steady_choices(), max_size=5), linear_units)
def test_linear_units_where_no_gain_rises(candidates: list[Choices], operator: LinearUnits) -> None:
    assert all(choices.steady for choices in candidates)
    assert_equals_brute_force(candidates, operator)


@settings(max_examples=100, deadline=None)
@given(st.lists(any_choices(SECONDS), max_size=4), chunk_counts)
def test_chunks_any_durations(candidates: list[Choices], operator: ChunkCounts) -> None:
    assert_equals_brute_force(candidates, operator)


def test_many_actions_get_the_same_from_gains_as_from_the_grid() -> None:
    chance = random.Random(5)
    candidates = [
        amdahl(chance.lognormvariate(4, 1), chance.choice([0.03, 0.1]), range(1, 33))
        for _ in range(60)
    ]
    gains = tabulate(candidates, LinearUnits(200))
    grid = grids.LinearGrid(candidates, 200)
    for count in (60, 1, 17, 59):
        assert gains.amounts(count) == grid.amounts(count)
        assert gains.total_s(count) == pytest.approx(grid.total_s(count), rel=1e-12)


# Operators


@settings(deadline=None)
@given(chunk_counts, st.lists(st.integers(1, 9), max_size=6))
def test_the_longest_prefix_is_the_longest_that_packs(
    operator: ChunkCounts, amounts: list[int]
) -> None:
    count = operator.longest_prefix(amounts)
    assert feasible(operator, amounts[:count])
    assert count == len(amounts) or not feasible(operator, amounts[: count + 1])


@given(chunk_counts, st.lists(st.integers(1, 8), max_size=6), st.randoms(use_true_random=False))
def test_whether_chunks_suffice_does_not_depend_on_the_order(
    operator: ChunkCounts, amounts: list[int], chance: random.Random
) -> None:
    shuffled = chance.sample(amounts, len(amounts))
    fits = operator.longest_prefix(amounts) == len(amounts)
    assert fits == (operator.longest_prefix(shuffled) == len(amounts))
    if fits:
        assert operator.less(amounts) == operator.less(shuffled)


def test_chunks_round_up_to_a_power_of_two() -> None:
    assert [level_of(k) for k in (1, 2, 3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3, 3, 4]
    assert ChunkCounts((0, 0, 0, 1)).occupied(3) == 4
    assert LinearUnits(8).occupied(3) == 3


def test_what_does_not_fit_beside_is_refused() -> None:
    with pytest.raises(ValueError, match="3 units are free, 4 are asked for"):
        LinearUnits(3).less([2, 2])
    with pytest.raises(ValueError, match="no chunk for 8 GPUs"):
        ChunkCounts((0, 0, 2, 0)).less([8])
    with pytest.raises(ValueError, match="cannot be negative"):
        LinearUnits(-1)
    with pytest.raises(ValueError, match="not negative"):
        ChunkCounts((1, -1))


# Ties, limits, bad input


def test_of_equal_totals_the_older_candidate_gets_the_unit_and_none_is_wasted() -> None:
    alike = Choices.of([(1, 10.0), (2, 8.0), (3, 8.0)])
    table = tabulate([alike, alike], LinearUnits(3))
    assert table.amounts(2) == [2, 1]
    assert tabulate([alike, alike], LinearUnits(9)).amounts(2) == [2, 2]


def test_nobody_gets_units_for_a_gain_that_is_mere_rounding() -> None:
    flat = Choices((1, 2, 3, 4), (0.3, 0.1 + 0.2, 0.3, 0.1 + 0.2 - 1e-16))
    assert flat.steady
    assert tabulate([flat, flat], LinearUnits(8)).amounts(2) == [1, 1]


def test_there_is_no_prefix_beyond_what_fits_at_its_minimum() -> None:
    table = tabulate([amdahl(8.0, 0.1, range(2, 5))] * 3, LinearUnits(5))
    assert table.longest == 2
    for beyond in (table.amounts, table.total_s):
        with pytest.raises(IndexError, match="of 0 to 2 candidates"):
            beyond(3)


def test_a_chunk_too_large_for_any_node_is_passed_over() -> None:
    table = tabulate([amdahl(8.0, 0.0, (2, 8, 16))], ChunkCounts((0, 0, 0, 1)))
    assert table.amounts(1) == [8]


def test_a_table_stays_within_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "STATES_MAX", 64)
    monkeypatch.setattr(grids, "CELLS_MAX", 64 * 3)
    sets = [amdahl(8.0, 0.0, (1, 2, 4, 8))] * 20
    linear = tabulate(sets, LinearUnits(1000))
    chunks = tabulate(sets, ChunkCounts((9, 9, 9, 9)))
    assert linear.longest == 3
    assert 1 <= chunks.longest <= 6
    for table in (linear, chunks):
        count = table.longest
        assert table.total_s(count) == total_s(sets[:count], table.amounts(count))
