"""Periods as people write them: `60`, `500ms`, `1m`, `1d`, in seconds without a unit. Nothing else."""

from __future__ import annotations

import re

_PERIOD = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d)?")
_PERIOD_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_period(period: object) -> float:
    """Seconds of a number, or of text with ms, s, m, h or d. Raises ValueError for anything else."""
    if isinstance(period, (int, float)) and not isinstance(period, bool):
        return float(period)
    match = _PERIOD.fullmatch(period.strip()) if isinstance(period, str) else None
    if match is None:
        raise ValueError(f"{period!r} is not a period: write seconds, or a number with s, m, h, d")
    return float(match["number"]) * _PERIOD_UNITS_S[match["unit"] or "s"]
