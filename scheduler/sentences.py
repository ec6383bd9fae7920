"""How kinds and amounts read in plain English: messages and explanations share these words."""

from __future__ import annotations

from .model import MEMORY, QUOTA_PREFIX

_BYTE_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def name_of(kind: str) -> str:
    """`quota:search` reads as "quota search", other kinds as they are."""
    if kind.startswith(QUOTA_PREFIX):
        return f"quota {kind.removeprefix(QUOTA_PREFIX)}"
    return kind


def number_of(kind: str, amount: int) -> str:
    """The bare number: "2", or "1.5 GiB" for memory."""
    if kind != MEMORY:
        return str(amount)
    for size, unit in _BYTE_UNITS:
        if amount >= size:
            return f"{amount / size:.1f} {unit}"
    return f"{amount} B"


def amount_of(kind: str, amount: int) -> str:
    """ "1 core", "2 cores", "1.5 GiB of memory", "3 units of quota search"."""
    number = number_of(kind, amount)
    if kind == MEMORY:
        return f"{number} of memory"
    if kind.startswith(QUOTA_PREFIX):
        return f"{number} {'unit' if amount == 1 else 'units'} of {name_of(kind)}"
    return f"{number} {kind.removesuffix('s') if amount == 1 else kind}"
