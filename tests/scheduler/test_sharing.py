"""Sharing units out among actions that may change: the most weighted speed that the units give."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tangram.scheduler.choices import Choices
from tangram.scheduler.sharing import Claim, share_out


def amdahl(work_s: float, serial: float, most: int = 8) -> Choices:
    return Choices.of((m, work_s * (serial + (1 - serial) / m)) for m in range(1, most + 1))


def claims_of(works_s: list[float], serial: float, held: list[int]) -> list[Claim]:
    return [
        Claim(amdahl(work_s, serial), units)
        for work_s, units in zip(sorted(works_s), held, strict=True)
    ]


def weighted_speed(claims: list[Claim], shares: tuple[int, ...], expected: float) -> float:
    total = 0.0
    for index, (claim, units) in enumerate(zip(claims, shares, strict=True)):
        weight = len(claims) - index + expected
        work_s = claim.choices.durations_s[0]
        total += weight * (work_s / claim.choices.duration_s(units) if units else 0.0)
    return total


@given(
    works_s=st.lists(st.floats(1, 100), min_size=1, max_size=3),
    serial=st.sampled_from([0.01, 0.1, 0.5]),
    budget=st.integers(3, 10),
    expected=st.sampled_from([0.0, 3.0]),
)
def test_no_other_share_out_gives_more_weighted_speed(
    works_s: list[float], serial: float, budget: int, expected: float
) -> None:
    claims = claims_of(works_s, serial, [1] * len(works_s))
    shares = tuple(share_out(budget, claims, expected))
    assert sum(shares) <= budget and all(shares), "who runs keeps its least amount"
    best = max(
        weighted_speed(claims, other, expected)
        for other in product(range(1, 9), repeat=len(claims))
        if sum(other) <= budget
    )
    assert weighted_speed(claims, shares, expected) >= best * (1 - 1e-9)


def test_the_shorter_of_two_gets_more() -> None:
    short, long = share_out(8, claims_of([10.0, 90.0], 0.05, [1, 1]), 0.0)
    assert short > long and short + long == 8


def test_who_comes_before_many_others_weighs_little_more_than_they_do() -> None:
    assert share_out(8, claims_of([10.0, 90.0], 0.05, [1, 1]), 1000.0) == [4, 4]


def test_what_changed_a_moment_ago_keeps_what_it_holds() -> None:
    fixed = Claim(amdahl(10.0, 0.05), 2, fixed=True)
    assert share_out(8, [fixed, Claim(amdahl(90.0, 0.05), 1)], 0.0) == [2, 6]


def test_one_that_runs_keeps_its_least_amount_and_one_that_waits_goes_on_waiting() -> None:
    running, waiting = Claim(amdahl(10.0, 0.05), 6), Claim(amdahl(20.0, 0.05), 0)
    assert share_out(1, [running, waiting], 0.0) == [1, 0]
    assert share_out(0, [running, waiting], 0.0) == [1, 0]


def test_a_step_that_is_too_large_leaves_the_units_to_others() -> None:
    in_fours = Claim(Choices((1, 5), (10.0, 2.0)), 1)
    by_one = Claim(amdahl(90.0, 0.05), 1)
    assert share_out(4, [in_fours, by_one], 0.0) == [1, 3]
