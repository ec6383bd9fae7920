"""What passed tests are worth, and when the rest cannot change it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.errors import InvalidRequest
from tangram.scoring import AllOrNothing, Difficulty, Fraction, groups_by_pass_rate, pass_rates
from tangram.scoring.schemes import Scheme, check_names, decided, scheme

GROUPS = (("a", "b"), ("c",), ("d", "e"))
NAMES = ("a", "b", "c", "d", "e")
SCHEMES = [AllOrNothing(), Fraction(), Difficulty(GROUPS), Difficulty(GROUPS, "soft")]


def test_all_or_nothing_and_the_share() -> None:
    assert AllOrNothing().value({"a", "b"}, ("a", "b")) == 1
    assert AllOrNothing().value({"a"}, ("a", "b")) == 0
    assert Fraction().value({"a"}, ("a", "b", "c", "d")) == 0.25
    assert AllOrNothing().value(set(), ()) == Fraction().value(set(), ()) == 0


@pytest.mark.parametrize(
    ("passed", "strict", "soft"),
    [
        ("", 0, 0),
        ("ab", 1 / 6, 1 / 6),
        ("a", 0, 1 / 12),
        ("abc", 3 / 6, 3 / 6),
        ("abde", 1 / 6, 4 / 6),
        ("cde", 0, 5 / 6),
        ("abcd", 3 / 6, 4.5 / 6),
        ("abcde", 1, 1),
    ],
)
def test_groups_of_difficulty_count_as_the_paper_says(
    passed: str, strict: float, soft: float
) -> None:
    assert Difficulty(GROUPS, "strict").value(set(passed), NAMES) == pytest.approx(strict)
    assert Difficulty(GROUPS, "soft").value(set(passed), NAMES) == pytest.approx(soft)


def test_weights_are_scaled_to_one() -> None:
    even = Difficulty(GROUPS, "strict", (5, 5, 5))
    assert even.value({"a", "b"}, NAMES) == pytest.approx(1 / 3)
    assert even.value(set(NAMES), NAMES) == 1


@given(st.sampled_from(SCHEMES), st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
def test_one_more_passed_test_never_lowers_a_value(
    chosen: Scheme, passed: set[str], more: str
) -> None:
    before, after = chosen.value(passed, NAMES), chosen.value(passed | {more}, NAMES)
    assert 0 <= before <= after <= 1


@given(st.sampled_from(SCHEMES), st.sets(st.sampled_from(NAMES)), st.data())
def test_decided_means_that_every_end_has_the_same_value(
    chosen: Scheme, passed: set[str], data: st.DataObject
) -> None:
    others = [name for name in NAMES if name not in passed]
    failed = data.draw(st.sets(st.sampled_from(others)) if others else st.just(set()))
    left = [name for name in others if name not in failed]
    ends = {
        round(chosen.value(passed | set(some), NAMES), 12)
        for size in range(len(left) + 1)
        for some in itertools.combinations(left, size)
    }
    assert decided(chosen, passed, failed, NAMES) == (len(ends) == 1)
    if not chosen.stops_early and left:
        assert len(ends) > 1


def test_the_easiest_tests_run_first() -> None:
    assert Difficulty(GROUPS).order(("e", "c", "b", "x", "a")) == ["b", "a", "c", "e", "x"]
    assert Fraction().order(("e", "c")) == ["e", "c"]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("groups", {"groups": ()}),
        ("groups", {"groups": (("a",), ())}),
        ("groups", {"groups": (("a",), ("a",))}),
        ("rule", {"groups": GROUPS, "rule": "kind"}),
        ("weights", {"groups": GROUPS, "weights": (1, 2)}),
        ("weights", {"groups": GROUPS, "weights": (1, 2, 0)}),
    ],
)
def test_groups_that_make_no_sense_are_refused(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Difficulty(**values)
    assert refused.value.field == field


def test_schemes_are_known_by_name_and_others_refused() -> None:
    assert scheme("all") == AllOrNothing()
    assert scheme("fraction") == Fraction()
    assert scheme(Difficulty(GROUPS)) == Difficulty(GROUPS)
    with pytest.raises(InvalidRequest, match="scheme must be"):
        scheme("most")


def test_groups_must_name_the_tests_that_there_are() -> None:
    check_names(Difficulty(GROUPS), NAMES)
    check_names(Fraction(), ("anything",))
    with pytest.raises(InvalidRequest, match="'e' that is not there"):
        check_names(Difficulty(GROUPS), NAMES[:4])
    with pytest.raises(InvalidRequest, match="'x' is in no group"):
        check_names(Difficulty(GROUPS), (*NAMES, "x"))


def test_pass_rates_count_the_rollouts_in_which_a_test_ran() -> None:
    rollouts = [{"a": True, "b": False}, {"a": True, "b": True}, {"a": False}]
    assert pass_rates(rollouts) == {"a": pytest.approx(2 / 3), "b": 0.5}
    assert pass_rates([]) == {}


def test_groups_come_from_pass_rates_the_easiest_first() -> None:
    rates = {"hard": 0.1, "easy": 0.9, "edge": 0.75, "middle": 0.3, "never": 0.0}
    assert groups_by_pass_rate(rates) == (("easy", "edge"), ("middle",), ("hard", "never"))
    assert groups_by_pass_rate(rates, (0.2,)) == (("easy", "edge", "middle"), ("hard", "never"))
    with pytest.raises(InvalidRequest, match=r"rates\[a\] must be from 0 to 1"):
        groups_by_pass_rate({"a": 1.5})
    with pytest.raises(InvalidRequest, match="edges must fall"):
        groups_by_pass_rate({"a": 0.5}, (0.2, 0.8))
