"""Right and wrong answers, compared in each way."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.errors import InvalidRequest
from tangram.scoring import Comparison
from tangram.scoring.comparing import comparison, value_difference


@pytest.mark.parametrize(
    ("kind", "actual", "expected", "same"),
    [
        ("exact", "a\n", "a\n", True),
        ("exact", "a", "a\n", False),
        ("lines", "  a b \r\nc\n\n", "a b\nc", True),
        ("lines", "a\n\nc", "a\nc", False),
        ("lines", "a  b", "a b", False),
        ("lines", "a\x0cb", "a\nb", False),
        ("lines", "1.0", "1", False),
        ("lines", "", "\n \n", True),
        ("tokens", "a\n b\tc", "a b c", True),
        ("tokens", "a b", "a b c", False),
        ("numbers", "1.0000001 x", "1.0 x", True),
        ("numbers", "1.01 x", "1.0 x", False),
        ("numbers", "5.0", "5", True),
        ("numbers", "5.0000001", "5", False),
        ("numbers", "50000000000000001", "50000000000000000", False),
        ("numbers", "1\n2", "1 2", False),
        ("numbers", "nan", "1.5", False),
        ("numbers", "nan", "nan", True),
        ("numbers", "inf", "1.5", False),
        ("numbers", "1_5", "15", False),
        ("numbers", "1e9999", "1.5", False),
        ("numbers", "1e-9999", "0.0", True),
        ("numbers", "1" * 5000, "1.0", False),
        ("numbers", "-0.0", "0", True),
    ],
)
def test_outputs_are_compared_as_the_kind_says(
    kind: str, actual: str, expected: str, same: bool
) -> None:
    difference = Comparison(kind).difference(actual.encode(), expected)
    assert (difference == "") is same, difference


def test_case_can_be_ignored() -> None:
    for kind in ("exact", "lines", "tokens", "numbers"):
        assert Comparison(kind).difference(b"Yes", "YES") != ""
        assert Comparison(kind, ignore_case=True).difference(b"Yes", "YES") == ""


def test_the_tolerances_are_those_that_were_given() -> None:
    wide = Comparison("numbers", relative=0.1, absolute=0.0)
    assert wide.difference(b"109", "100.0") == ""
    assert wide.difference(b"111", "100.0") != ""
    assert Comparison("numbers", relative=0.0, absolute=0.5).difference(b"0.4", "0.0") == ""


def test_bytes_that_are_no_text_are_wrong_and_no_error() -> None:
    for kind in ("exact", "lines", "tokens", "numbers"):
        assert Comparison(kind).difference(b"\xff\xfe", "a") != ""


def test_the_first_difference_is_named() -> None:
    assert Comparison().difference(b"1\n2\n3", "1\n5\n3") == "line 2 is '2', expected '5'"
    assert Comparison().difference(b"1\n2", "1") == "the output has 2 lines, expected 1"
    long = Comparison("tokens").difference(b"x" * 10_000, "y")
    assert len(long) < 200


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("comparison", {"kind": "fuzzy"}),
        ("relative", {"relative": -1.0}),
        ("absolute", {"absolute": math.nan}),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Comparison(**values)
    assert refused.value.field == field


def test_a_comparison_can_be_named() -> None:
    assert comparison("tokens") == Comparison("tokens")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_every_json_value_equals_itself_after_its_way_through_json(value: Any) -> None:
    again = json.loads(json.dumps(value))
    assert value_difference(again, json.loads(json.dumps(value)), 0.0, 0.0) == ""


@pytest.mark.parametrize(
    ("actual", "expected", "difference"),
    [
        (2.0, 2, ""),
        (True, 1, "the value is True, expected 1"),
        (1, True, "the value is 1, expected True"),
        (0, False, "the value is 0, expected False"),
        (None, False, "the value is None, expected False"),
        ("1", 1, "the value is '1', expected 1"),
        ([1, 2], [1, 3], "the value[1] is 2, expected 3"),
        ([1], [1, 2], "the value has 1 items, expected 2"),
        ({"a": [1]}, {"a": [2]}, "the value['a'][0] is 1, expected 2"),
        ({"a": 1}, {"b": 1}, "the value has other keys than expected"),
        ({}, [], "the value is {}, expected []"),
        (0.1 + 0.2, 0.3, "the value is 0.30000000000000004, expected 0.3"),
        (10**400, 1.5, "the value is " + "1" + "0" * 79 + "..., expected 1.5"),
        (math.nan, 1.0, "the value is nan, expected 1.0"),
    ],
)
def test_the_first_difference_of_values_is_named(
    actual: Any, expected: Any, difference: str
) -> None:
    assert value_difference(actual, expected, 0.0, 0.0) == difference


def test_fractions_may_be_off_by_the_tolerance_and_integers_not() -> None:
    assert value_difference([0.1 + 0.2, {"a": 1.0001}], [0.3, {"a": 1.0}], 1e-3, 0.0) == ""
    assert value_difference(1.0001, 1, 1e-3, 0.0) != ""
    assert value_difference(10**400, 1e300, 1e-3, 0.0) != ""
