"""What an action may choose from: feasible, sensible amounts and their predicted run times."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from tangram.scheduler.choices import CHOICES_MAX, Choices, choices_of
from tangram.scheduler.model import EFFICIENCY_MIN, Action, Amounts, Demand, Profile


def amdahl(units: Iterable[int], serial: float) -> Choices:
    return Choices.of((m, 64.0 * (serial + (1 - serial) / m)) for m in units)


def test_choices_know_whether_gains_never_rise() -> None:
    assert amdahl(range(1, 33), 0.03).steady
    assert amdahl(range(1, 33), 1.0).steady
    assert not amdahl((1, 2, 4, 8), 0.03).steady
    assert not Choices.of([(1, 10.0), (2, 9.0), (3, 5.0)]).steady


def choices(
    amounts: Amounts, profile: Profile, *, timeout_s: float | None = None, largest: int = 64
) -> Choices | None:
    demand = Demand({"cores": amounts}, key="cores")
    action = Action("a", "task", demand, "t", timeout_s=timeout_s)
    return choices_of(action, profile, largest)


def test_choices_come_from_what_is_known_of_an_action() -> None:
    assert choices(Amounts.between(1, 3), Profile(6.0, serial=0.0)) == Choices(
        (1, 2, 3), (6.0, 3.0, 2.0)
    )
    assert choices(Amounts.among([1, 2, 4]), Profile(8.0, {2: 1.0, 4: 0.5})) == Choices(
        (1, 2), (8.0, 4.0)
    ), "4 units are no faster than 2"


def test_an_amount_is_no_choice_without_a_range_or_a_known_elasticity() -> None:
    assert choices(Amounts.exactly(4), Profile(6.0, serial=0.0)) is None
    assert choices(Amounts.between(2, 4), Profile(6.0)) is None
    assert choices(Amounts.between(2, 4), Profile()) is None


def test_no_choice_is_above_what_one_grant_could_get() -> None:
    some = choices(Amounts.between(2, 64), Profile(6.0, serial=0.0), largest=5)
    assert some is not None and some.units == (2, 3, 4, 5)


def test_a_wide_range_is_looked_at_evenly() -> None:
    wide = choices(Amounts.between(1, 1 << 40), Profile(6.0, serial=0.0), largest=1 << 40)
    assert wide is not None and len(wide.units) == CHOICES_MAX
    assert (wide.units[0], wide.units[-1]) == (1, 1 << 40)


@pytest.mark.parametrize(
    ("timeout_s", "units"), [(None, (1, 2, 3)), (6.0, (1, 2, 3)), (3.5, (2, 3)), (1.0, (3,))]
)
def test_amounts_that_would_time_out_are_infeasible_while_a_larger_one_exists(
    timeout_s: float | None, units: tuple[int, ...]
) -> None:
    some = choices(Amounts.between(1, 3), Profile(6.0, serial=0.0), timeout_s=timeout_s)
    assert some is not None and some.units == units


@pytest.mark.parametrize(
    ("units", "seconds", "words"),
    [
        ((), (), "1 to 128 choices"),
        ((1, 2), (1.0,), "2 amounts, but 1 durations"),
        ((2, 2), (1.0, 1.0), "amounts ascend"),
        ((0, 2), (1.0, 1.0), "amounts ascend"),
        ((1,), (math.nan,), "finite and not negative"),
        ((1,), (math.inf,), "finite and not negative"),
        ((1,), (-1.0,), "finite and not negative"),
    ],
)
def test_bad_choices_are_refused(
    units: tuple[int, ...], seconds: tuple[float, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Choices(units, seconds)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({2: 1e-323}, "1e-06 <= E <= 1, not 2: 1e-323"),
        ({2: 0.0}, "1e-06 <= E <= 1, not 2: 0.0"),
        ({2: 1.5}, "not 2: 1.5"),
        ({2: math.nan}, "not 2: nan"),
        ({0: 0.5}, "not 0: 0.5"),
        ({1: 0.5}, "at one unit E is 1, not 0.5: duration_s is with one unit"),
    ],
)
def test_an_efficiency_that_no_duration_can_be_made_of_is_refused(
    table: dict[int, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Profile(10.0, table)


def test_the_least_efficiency_predicts_a_duration_that_can_be_learned_from() -> None:
    run_s = Profile(1e9, {1: 1.0, 2: EFFICIENCY_MIN}).run_s(2)
    assert run_s == 1e9 / (2 * EFFICIENCY_MIN)


def test_amounts_ascend() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Amounts(1, 4, (1, 3, 2, 4))
    with pytest.raises(ValueError, match="ascend"):
        Amounts(1, 4, (1, 1, 4))
    assert list(Amounts.among([4, 1, 2, 4])) == [1, 2, 4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"deadline": math.nan}, "the deadline of 'a' is finite, not nan"),
        ({"deadline": math.inf}, "the deadline of 'a' is finite, not inf"),
        ({"timeout_s": math.nan}, "the timeout of 'a' is not negative, not nan"),
        ({"timeout_s": -1.0}, "the timeout of 'a' is not negative, not -1"),
    ],
)
def test_times_that_are_none_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Action("a", "task", Demand({"cores": Amounts.exactly(1)}), "t", **fields)
