"""The reading of option values, and the exit codes of `run`: no server, no event loop."""

from __future__ import annotations

import pytest
import typer

from tangram.cli.options import parse_cores, parse_environment, parse_uploads


@pytest.mark.parametrize(
    ("text", "cores"),
    [("1", 1), ("16", 16), ("1-8", (1, 8)), ("4-4", (4, 4)), ("1,2,4", {1, 2, 4})],
)
def test_cores_are_a_number_a_range_or_a_set(text: str, cores: object) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "0", "-1", "8-1", "0-4", "1,", "1,x", "two", "1.5", "²"])
def test_other_cores_are_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 4, a range 1-8, or a set 1,2,4"):
        parse_cores(text)


def test_a_variable_may_contain_equal_signs_and_be_empty() -> None:
    assert parse_environment(["A=b=c", "EMPTY="]) == {"A": "b=c", "EMPTY": ""}


@pytest.mark.parametrize("pair", ["A", "=b", ""])
def test_a_variable_without_a_name_or_value_is_refused(pair: str) -> None:
    with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
        parse_environment([pair])


def test_an_upload_is_split_at_its_last_colon() -> None:
    assert parse_uploads(["./a:/workspace/a", "c:\\x:/y"]) == [
        ("./a", "/workspace/a"),
        ("c:\\x", "/y"),
    ]


@pytest.mark.parametrize("pair", ["a", ":b", "a:", ":"])
def test_an_upload_without_both_ends_is_refused(pair: str) -> None:
    with pytest.raises(typer.BadParameter, match="SOURCE:TARGET"):
        parse_uploads([pair])
