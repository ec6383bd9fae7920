"""Quantiles of recent values, against the definition computed from scratch."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.scheduler.quantile import RecentQuantiles

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def quantile_by_definition(values: list[float], share: float) -> float:
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below, above = math.floor(position), math.ceil(position)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@given(VALUES, st.integers(1, 20), st.floats(0, 1))
def test_a_quantile_is_exactly_that_of_the_last_values(
    values: list[float], size: int, share: float
) -> None:
    recent = RecentQuantiles(size)
    for value in values:
        recent.add(value)
    assert recent.at(share) == pytest.approx(quantile_by_definition(values[-size:], share))
    assert list(recent) == values[-size:]
    assert len(recent) == min(size, len(values))


@given(VALUES, st.integers(1, 20))
def test_values_given_at_the_start_count_as_if_they_had_been_added(
    values: list[float], size: int
) -> None:
    added = RecentQuantiles(size)
    for value in values:
        added.add(value)
    assert [RecentQuantiles(size, values).at(q) for q in (0, 0.3, 1)] == [
        added.at(q) for q in (0, 0.3, 1)
    ]


def test_quantiles_of_a_heavy_tail_are_within_sampling_error_of_the_truth() -> None:
    random_source = random.Random(5)
    recent = RecentQuantiles(4000)
    for _ in range(9000):
        recent.add(random_source.paretovariate(1.2))
    for share in (0.1, 0.5, 0.9):
        low, high = (
            (1 - (share + side * 3 * math.sqrt(share * (1 - share) / 4000))) ** (-1 / 1.2)
            for side in (-1, 1)
        )
        assert low < recent.at(share) < high


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        RecentQuantiles(0)


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(IndexError):
        RecentQuantiles(3).at(0.5)
