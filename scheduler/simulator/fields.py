"""Reading fields of a JSON object so that each wrong one is named: source, line, field, cure.

What the fields of a trace mean is `trace`'s; here are only types, ranges and words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from ..model import EFFICIENCY_MIN, Amounts

NAME_CHARS_MAX = 256
"""Of an id, a task, a group: four times what the server accepts for an id."""

AMOUNT_MAX = 1 << 16
"""Cores, GPUs or units of a quota that one action may name; no machine has as many, and a policy
looks at every amount of a range."""

AMOUNTS_MAX = 4096
"""Entries in a list of amounts or in a table of elasticity."""

_SHOWN_CHARS = 60

_RANGE = re.compile(r"(\d{1,9})\s*-\s*(\d{1,9})")
_NUMBERS = re.compile(r"\d{1,9}(\s*,\s*\d{1,9})*")


class TraceError(ValueError):
    """A trace that cannot be read: names the source, the line and the field, and what would be
    right."""


class Fields:
    """One JSON object of a trace, at a known place. Null counts as missing everywhere."""

    def __init__(self, values: object, place: str, path: str = "") -> None:
        self._place = place
        self._path = path
        if not isinstance(values, dict):
            self.refuse("", f"a JSON object is needed, not {shown(values)}")
        self._values: Mapping[str, object] = values

    def at(self, values: object, path: str) -> Fields:
        """An object further in, for errors at the same line."""
        return Fields(values, self._place, path)

    def refuse(self, field: str, what: str) -> NoReturn:
        """Raises TraceError."""
        name = f"{self._path}.{field}" if self._path and field else self._path or field
        raise TraceError(f"{self._place}: {name}: {what}" if name else f"{self._place}: {what}")

    def has(self, field: str) -> bool:
        return self._values.get(field) is not None

    def raw(self, field: str) -> object:
        """As it stands; None if it is missing."""
        return self._values.get(field)

    def text(self, field: str, default: str | None = None) -> str:
        """A string of 1 to NAME_CHARS_MAX characters; without a default it must be there. With
        one, an empty string counts as missing."""
        value = self._values.get(field)
        if value in (None, "") and default is not None:
            return default
        if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS_MAX:
            right = f"a string of 1 to {NAME_CHARS_MAX} characters is needed"
            self.refuse(field, f"{right}, not {shown(value)}")
        return value

    def number(
        self, field: str, default: float | None, low: float, high: float, unit: str = ""
    ) -> float:
        """A finite number from `low` to `high`; without a default it must be there."""
        value = self._values.get(field)
        if value is None and default is not None:
            return default
        return self._number(field, value, low, high, unit)

    def _number(self, field: str, value: object, low: float, high: float, unit: str) -> float:
        right = f"a number from {low:g} to {high:g}{unit and ' ' + unit} is needed"
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(field, f"{right}, not {shown(value)}")
        # NaN fails every comparison; integers are compared before they become floats.
        if not low <= value <= high:
            self.refuse(field, f"{right}, not {shown(value)}")
        return float(value)

    def whole(self, field: str, default: int | None, low: int, high: int) -> int | None:
        """An integer from `low` to `high`, or the default if it is missing."""
        value = self._values.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(field, f"an integer from {low} to {high} is needed, not {shown(value)}")
        return value

    def flag(self, field: str) -> bool:
        value = self._values.get(field)
        if value is not None and not isinstance(value, bool):
            self.refuse(field, f"true or false is needed, not {shown(value)}")
        return bool(value)

    def items(self, field: str, most: int) -> list[object]:
        """A list that must be there."""
        value = self._values.get(field)
        if not isinstance(value, list):
            self.refuse(field, f"a list is needed, not {shown(value)}")
        if len(value) > most:
            self.refuse(field, f"at most {most} entries are read, not {len(value)}")
        return value

    def amounts(self, field: str) -> Amounts:
        """[1, 2, 4] is a set, "1-32" a range, 4 or [4] one amount; missing means 1."""
        value = self._values.get(field)
        if value is None:
            return Amounts.exactly(1)
        if isinstance(value, str):
            try:
                return parse_amounts(value)
            except ValueError as error:
                self.refuse(field, str(error))
        listed: list[Any] = value if isinstance(value, list) else [value]
        if not listed:
            self.refuse(field, "an empty set of amounts can never be met; name at least one")
        if len(listed) > AMOUNTS_MAX:
            self.refuse(field, f"at most {AMOUNTS_MAX} amounts are read, not {len(listed)}")
        values: list[int] = []
        for amount in listed:
            whole = isinstance(amount, int) and not isinstance(amount, bool)
            if not whole or not 1 <= amount <= AMOUNT_MAX:
                right = (
                    f'whole amounts from 1 to {AMOUNT_MAX} are needed, as [1, 2, 4], "1-32" or 4'
                )
                self.refuse(field, f"{right}, not {shown(amount)}")
            values.append(amount)
        return among(values)

    def table(self, field: str) -> dict[int, float]:
        """Units -> efficiency, EFFICIENCY_MIN <= E <= 1; empty if it is missing. E(1) is 1:
        `duration_s` is with one unit."""
        value = self._values.get(field)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > AMOUNTS_MAX:
            self.refuse(
                field, f'an object as {{"2": 0.95, "4": 0.9}} is needed, not {shown(value)}'
            )
        table: dict[int, float] = {}
        for key, efficiency in value.items():
            units = int(key) if key.isascii() and key.isdigit() and len(key) <= 9 else 0
            if not 1 <= units <= AMOUNT_MAX:
                self.refuse(f"{field}[{shown(key)}]", f"units from 1 to {AMOUNT_MAX} are needed")
            right = f"an efficiency is at least {EFFICIENCY_MIN:g} and at most 1"
            if isinstance(efficiency, bool) or not isinstance(efficiency, int | float):
                self.refuse(f"{field}.{key}", f"{right}, not {shown(efficiency)}")
            if not EFFICIENCY_MIN <= efficiency <= 1:
                self.refuse(f"{field}.{key}", f"{right}, not {shown(efficiency)}")
            if units == 1 and efficiency != 1:
                self.refuse(f"{field}.{key}", "E(1) is 1: duration_s is with one unit")
            table[units] = float(efficiency)
        return dict(sorted(table.items()))


def parse_amounts(text: str) -> Amounts:
    """ "1-32" is a range, "1,2,4" a set, "4" one amount. Raises ValueError for anything else."""
    right = f'amounts from 1 to {AMOUNT_MAX} are needed, as "1-32", "1,2,4" or "4"'
    if match := _RANGE.fullmatch(text.strip()):
        low, high = int(match[1]), int(match[2])
        if not 1 <= low <= high <= AMOUNT_MAX:
            raise ValueError(f"{right}, not {shown(text)}")
        return Amounts.between(low, high)
    if not _NUMBERS.fullmatch(text.strip()):
        raise ValueError(f"{right}, not {shown(text)}")
    values = [int(part) for part in text.split(",")]
    if not all(1 <= value <= AMOUNT_MAX for value in values):
        raise ValueError(f"{right}, not {shown(text)}")
    return among(values)


def among(values: list[int]) -> Amounts:
    """Exactly these; a single one is no set, so that equal demands compare equal."""
    return Amounts.exactly(values[0]) if len(set(values)) == 1 else Amounts.among(values)


def shown(value: object) -> str:
    """A value of the input for an error message: short, and missing if it is not there."""
    if value is None:
        return "missing or null"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > 10**_SHOWN_CHARS:
        return "a number of very many digits"
    text = repr(value) if not isinstance(value, list | dict) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
