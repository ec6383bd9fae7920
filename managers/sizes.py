"""Sizes as people write them: `512Mi`, `1Gi`, `10MB`, or a number of bytes. Nothing else."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    **{f"{p}i": 1 << (10 * (i + 1)) for i, p in enumerate("KMGTP")},
    **{p: 1000 ** (i + 1) for i, p in enumerate("KMGTP")},
}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGTP]i?)?B?", re.IGNORECASE)
_BY_FOLDED = {unit.casefold(): factor for unit, factor in _UNITS.items()}


def parse_size(size: int | str) -> int:
    """Bytes of an int, or of text with a binary (Ki Mi Gi Ti Pi) or decimal (K M G T P) unit.

    Raises ValueError for anything else, and for sizes that are negative.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        if size < 0:
            raise ValueError(f"a size cannot be negative, as {size} is")
        return size
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        raise ValueError(f"{size!r} is not a size: write bytes, or a number with Ki, Mi, Gi or Ti")
    return int(float(match["number"]) * _BY_FOLDED[(match["unit"] or "").casefold()])


def format_size(size_bytes: int) -> str:
    """The shortest exact binary form: 1073741824 -> 1Gi, 1000 -> 1000."""
    for prefix in "PTGMK":
        unit = _UNITS[f"{prefix}i"]
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit}{prefix}i"
    return str(size_bytes)
