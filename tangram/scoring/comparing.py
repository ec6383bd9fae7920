"""Is what a solution answered what was expected? Pure; runs on the caller's side, where the expected
values stay.

Nothing here trusts the answer: it may be endless, deeply nested or not a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ..errors import InvalidRequest

KINDS = ("exact", "lines", "tokens", "numbers")
SHOWN_CHARACTERS_MAX = 80
"""Of a value in a message."""
NUMBER_CHARACTERS_MAX = 400
"""A longer token is compared as text: no number is printed so long, and parsing costs."""
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the standard output of a program is compared with the expected text.

    - `exact`: the same bytes.
    - `lines`: the same lines, without white space at the ends of lines and of the whole text.
    - `tokens`: the same words, whatever white space stands between them.
    - `numbers`: as `lines`, and where both words are numbers they may differ by `relative` or
      `absolute`, whichever is more; where an integer is expected, by nothing ("5.0" is 5).

    `lines` and the exact integers of `numbers` are what LiveCodeBench's grader does
    (lcb_runner/evaluation/testing_util.py: stripped lines, then Decimals word by word); a relative
    tolerance and `ignore_case` are SandboxFusion's (sandbox/utils/testing.py: `float_equal` at
    1e-5, `lower_cmp`).
    """

    kind: str = "lines"
    relative: float = 1e-6
    absolute: float = 1e-9
    ignore_case: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidRequest(
                f"comparison must be one of {', '.join(KINDS)}, not {self.kind!r}",
                field="comparison",
            )
        _check_tolerance(self.relative, "relative")
        _check_tolerance(self.absolute, "absolute")

    def difference(self, actual: bytes, expected: str) -> str:
        """The first difference in a few words; empty if there is none."""
        if self.kind == "exact" and not self.ignore_case:
            return "" if actual == expected.encode() else "the output is not the same bytes"
        found = actual.decode("utf-8", "replace")
        if self.ignore_case:
            found, expected = found.casefold(), expected.casefold()
        if self.kind == "exact":
            return "" if found == expected else "the output is not the same text"
        if self.kind == "tokens":
            return _first_difference(found.split(), expected.split(), "word", str.__eq__)
        same = self._same_words if self.kind == "numbers" else str.__eq__
        return _first_difference(_lines(found), _lines(expected), "line", same)

    def _same_words(self, actual: str, expected: str) -> bool:
        if actual == expected:
            return True
        words, wanted = actual.split(), expected.split()
        return len(words) == len(wanted) and all(map(self._same_word, words, wanted))

    def _same_word(self, actual: str, expected: str) -> bool:
        if actual == expected:
            return True
        if max(len(actual), len(expected)) > NUMBER_CHARACTERS_MAX:
            return False
        if not NUMBER.fullmatch(actual) or not NUMBER.fullmatch(expected):
            return False
        if INTEGER.fullmatch(expected):
            return Decimal(actual) == Decimal(expected)
        return _close(float(actual), float(expected), self.relative, self.absolute)


def comparison(given: Comparison | str) -> Comparison:
    """A comparison from its name. Raises InvalidRequest."""
    return given if isinstance(given, Comparison) else Comparison(given)


def value_difference(actual: Any, expected: Any, relative: float, absolute: float) -> str:
    """Where two JSON values differ first; empty if nowhere. Numbers may differ by the tolerances
    where a fraction is expected; true is not 1, and 2.0 is 2."""
    return _difference(actual, expected, relative, absolute, "the value")


def _difference(actual: Any, expected: Any, relative: float, absolute: float, where: str) -> str:
    if isinstance(expected, dict) and isinstance(actual, dict):
        if actual.keys() != expected.keys():
            return f"{where} has other keys than expected"
        pairs = [(actual[key], expected[key], f"{where}[{_shown(key)}]") for key in expected]
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(actual) != len(expected):
            return f"{where} has {len(actual)} items, expected {len(expected)}"
        pairs = [
            (one, other, f"{where}[{index}]")
            for index, (one, other) in enumerate(zip(actual, expected, strict=True))
        ]
    elif _same_leaf(actual, expected, relative, absolute):
        return ""
    else:
        return f"{where} is {_shown(actual)}, expected {_shown(expected)}"
    for one, other, place in pairs:
        if found := _difference(one, other, relative, absolute, place):
            return found
    return ""


def _same_leaf(actual: Any, expected: Any, relative: float, absolute: float) -> bool:
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if isinstance(actual, int | float) and isinstance(expected, int | float):
        if actual == expected:
            return True
        if isinstance(expected, int):
            return False
        if math.isnan(expected):
            return isinstance(actual, float) and math.isnan(actual)
        return _close(actual, expected, relative, absolute)
    return type(actual) is type(expected) and bool(actual == expected)


def _close(actual: float, expected: float, relative: float, absolute: float) -> bool:
    try:
        return math.isclose(actual, expected, rel_tol=0.0, abs_tol=absolute) or (
            abs(actual - expected) <= relative * abs(expected) < math.inf
        )
    except OverflowError:  # An integer beyond all floats.
        return False


def _first_difference(
    found: list[str], wanted: list[str], what: str, same: Callable[[str, str], bool]
) -> str:
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), 1):
        if not same(one, other):
            return f"{what} {number} is {_shown(one)}, expected {_shown(other)}"
    if len(found) != len(wanted):
        return f"the output has {len(found)} {what}s, expected {len(wanted)}"
    return ""


def _lines(text: str) -> list[str]:
    """Not `splitlines`, which also splits at form feeds and the like."""
    return [line.strip() for line in text.strip().split("\n")]


def _shown(value: object) -> str:
    try:
        text = repr(value[:SHOWN_CHARACTERS_MAX] if isinstance(value, str | list) else value)
    except (RecursionError, ValueError):  # Deeply nested, or an integer of thousands of digits.
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "..."


def _check_tolerance(value: object, field: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]
        raise InvalidRequest(f"{field} must be a number from 0 on, not {value!r}", field=field)
