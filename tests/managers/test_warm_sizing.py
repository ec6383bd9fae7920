"""How many sandboxes are to stand ready, and when a failing image is tried again: pure arithmetic."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.managers.cpu.warm.backoff import DELAY_S_MAX, Backoff
from tangram.managers.cpu.warm.sizing import START_S_GUESS, Demand, share_out


def demand(arrivals: list[float], *, start_s: float = 1.0, lanes: int = 4) -> Demand:
    found = Demand()
    found.started(start_s)
    for at in arrivals:
        found.arrived(at, lanes)
    return found


# One template


def test_nobody_came_so_nothing_is_needed() -> None:
    assert Demand().needs(since=0.0) == []


def test_arrivals_far_apart_need_one_each() -> None:
    assert demand([0.0, 10.0, 20.0]).needs(since=0.0) == [3]


def test_a_burst_needs_as_many_as_it_has_arrivals() -> None:
    assert demand([5.0] * 16).needs(since=0.0) == list(range(16, 0, -1))


def test_faster_starts_need_fewer_for_the_same_stream() -> None:
    stream = [0.1 * n for n in range(100)]
    slow = demand(stream, start_s=2.0, lanes=100).needs(since=0.0)
    fast = demand(stream, start_s=0.2, lanes=100).needs(since=0.0)
    assert 20 <= len(slow) <= 21
    assert 2 <= len(fast) <= 3


def test_a_stream_that_comes_faster_than_sandboxes_start_needs_ever_more() -> None:
    stream = [0.1 * n for n in range(100)]  # 10 a second; 4 lanes of 1 s start 4.
    needed = len(demand(stream, start_s=1.0, lanes=4).needs(since=0.0))
    assert 55 <= needed <= 65


def test_old_arrivals_are_forgotten() -> None:
    found = demand([0.0] * 8 + [100.0] * 2)
    assert len(found.needs(since=0.0)) == 8
    assert found.needs(since=50.0) == [2, 1]
    assert found.needs(since=0.0) == [2, 1]
    assert found.needs(since=200.0) == []


def test_the_time_of_a_start_is_learned_and_one_slow_start_does_not_decide() -> None:
    found = Demand()
    assert found.start_s == START_S_GUESS
    found.started(0.1)
    assert found.start_s == pytest.approx(0.1)
    found.started(10.1)
    assert found.start_s == pytest.approx(3.1)
    for _ in range(20):
        found.started(0.1)
    assert found.start_s == pytest.approx(0.1, abs=0.01)


@given(
    gaps=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
    start_s=st.floats(0.05, 3.0),
    lanes=st.integers(1, 5),
)
def test_with_the_needed_stock_no_arrival_would_have_waited(
    gaps: list[float], start_s: float, lanes: int
) -> None:
    times = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    stock = len(demand(times, start_s=start_s, lanes=lanes).needs(since=0.0))
    assert _waits(times, start_s, lanes, stock) == 0
    assert _waits(times, start_s, lanes, stock - 1) > 0


def _waits(times: list[float], start_s: float, lanes: int, stock: int) -> int:
    """How many find the shelf empty, played through order by order."""
    on_shelf, waits = stock, 0
    free_at = deque([0.0] * lanes)
    due: deque[float] = deque()
    for now in times:
        while due and due[0] <= now:
            due.popleft()
            on_shelf += 1
        waits += on_shelf <= 0
        on_shelf -= 1
        begins = max(now, free_at.popleft())
        free_at.append(begins + start_s)
        due.append(begins + start_s)
    return waits


# Several


def test_a_limit_is_shared_out_where_most_waiting_is_spared() -> None:
    needs = {"busy": [10, 10, 4], "slow": [3, 1], "rare": [1]}
    start_s = {"busy": 0.1, "slow": 1.0, "rare": 0.1}
    assert share_out(needs, start_s, 100) == {"busy": 3, "slow": 2, "rare": 1}
    # Seconds spared: slow 3, busy 1, busy 1, slow 1, busy 0.4, rare 0.1.
    assert share_out(needs, start_s, 1) == {"busy": 0, "slow": 1, "rare": 0}
    assert share_out(needs, start_s, 4) == {"busy": 2, "slow": 2, "rare": 0}
    assert share_out(needs, start_s, 0) == {"busy": 0, "slow": 0, "rare": 0}


def test_shares_stay_within_the_limit_and_within_the_needs() -> None:
    generator = random.Random(7)
    for _ in range(100):
        needs = {
            key: sorted(generator.randint(1, 50) for _ in range(generator.randint(0, 9)))[::-1]
            for key in range(generator.randint(0, 6))
        }
        start_s = {key: generator.uniform(0.01, 2.0) for key in needs}
        limit = generator.randint(0, 40)
        shares = share_out(needs, start_s, limit)
        assert all(shares[key] <= len(needs[key]) for key in needs)
        assert sum(shares.values()) == min(limit, sum(map(len, needs.values())))


# Failures


def test_one_failure_may_be_an_accident_and_costs_no_wait() -> None:
    backoff = Backoff()
    backoff.failed(10.0, "no room")
    assert backoff.left_s(10.0) == 0
    assert "failed once, at last with: no room; it is being tried again" in backoff.sentence(10.0)


def test_failures_in_a_row_wait_twice_as_long_each_time_up_to_a_bound() -> None:
    backoff = Backoff()
    waits = []
    for _ in range(10):
        backoff.failed(0.0, "no room")
        waits.append(backoff.left_s(0.0))
    assert waits == [0, 1, 2, 4, 8, 16, 32, DELAY_S_MAX, DELAY_S_MAX, DELAY_S_MAX]
    for _ in range(5000):
        backoff.failed(0.0, "no room")
    assert backoff.left_s(0.0) == DELAY_S_MAX
    assert backoff.left_s(25.0) == DELAY_S_MAX - 25
    assert "in 35.0 s" in backoff.sentence(25.0)


def test_a_start_ends_the_waiting_and_a_hand_over_the_count() -> None:
    backoff = Backoff()
    for _ in range(3):
        backoff.failed(0.0, "no room")
    backoff.started()
    assert (backoff.left_s(0.0), backoff.sentence(0.0), backoff.failures) == (0, "", 3)
    backoff.failed(0.0, "it died")
    assert backoff.left_s(0.0) == 4
    backoff.used()
    assert (backoff.left_s(0.0), backoff.failures) == (0, 0)


def test_nothing_is_started_ahead_of_need_while_starts_fail() -> None:
    backoff = Backoff()
    assert backoff.may_be_ahead(0.0)
    backoff.failed(0.0, "no room")
    assert not backoff.may_be_ahead(1.0)
    assert backoff.may_be_ahead(DELAY_S_MAX)
    backoff.started()
    assert backoff.may_be_ahead(1.0)
