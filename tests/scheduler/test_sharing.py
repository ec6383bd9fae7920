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
        work_s = claim.work_s / claim.left
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


def test_units_that_one_cannot_take_all_of_go_to_who_has_to_have_many() -> None:
    runs = Claim(Choices.of((m, 2000.0 / m) for m in range(1, 6)), 5)
    waits = Claim(Choices.of((m, 9000.0 / m) for m in range(4, 9)), 0)
    assert share_out(8, [runs, waits], 0.0) == [4, 4], "weighted 12, not 10 with three units idle"
    assert share_out(8, [runs, waits], 20.0) == [4, 4]


def step_by_step(budget: int, claims: list[Claim], expected: float) -> tuple[int, ...]:
    """The share-out without its last sentence: always the step that is worth most of those for
    which there is enough."""
    shares = [claim.choices.units[0] if claim.held else 0 for claim in claims]
    while True:
        steps: list[tuple[float, int, int]] = []
        for index, (claim, units) in enumerate(zip(claims, shares, strict=True)):
            larger = [m for m in claim.choices.units if m > units]
            if not larger or larger[0] - units > budget - sum(shares):
                continue
            after = [*shares[:index], larger[0], *shares[index + 1 :]]
            gain = weighted_speed(claims, tuple(after), expected)
            gain -= weighted_speed(claims, tuple(shares), expected)
            steps.append((-gain / (larger[0] - units), index, larger[0]))
        if not steps:
            return tuple(shares)
        _, index, units = min(steps)
        shares[index] = units


@st.composite
def uneven_claims(draw: st.DrawFn) -> list[Claim]:
    """Some with a large least amount, some in steps of several units, some that wait."""
    claims: list[Claim] = []
    for _ in range(draw(st.integers(1, 3))):
        units = sorted(draw(st.sets(st.integers(1, 7), min_size=1, max_size=4)))
        work_s, serial = draw(st.sampled_from([8.0, 20.0, 90.0])), draw(st.sampled_from([0.0, 0.2]))
        choices = Choices.of((m, work_s * (serial + (1 - serial) / m)) for m in units)
        claims.append(Claim(choices, draw(st.sampled_from([0, units[0]]))))
    return sorted(claims, key=lambda claim: claim.work_s)


@given(
    claims=uneven_claims(), budget=st.integers(0, 12), expected=st.sampled_from([0.0, 2.0, 20.0])
)
def test_it_is_never_worse_than_going_step_by_step_nor_better_than_the_best(
    claims: list[Claim], budget: int, expected: float
) -> None:
    shares = tuple(share_out(budget, claims, expected))
    kept = [claim.choices.units[0] if claim.held else 0 for claim in claims]
    assert sum(shares) <= max(budget, sum(kept))
    allowed = [(*claim.choices.units, *(() if claim.held else (0,))) for claim in claims]
    assert all(units in of for units, of in zip(shares, allowed, strict=True))
    if budget < sum(kept):
        assert shares == tuple(kept)
        return
    speed = weighted_speed(claims, shares, expected)
    plain = weighted_speed(claims, step_by_step(budget, claims, expected), expected)
    best = max(
        weighted_speed(claims, other, expected)
        for other in product(*allowed)
        if sum(other) <= budget
    )
    assert plain - 1e-9 <= speed <= best + 1e-9


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
