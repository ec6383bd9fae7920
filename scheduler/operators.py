"""What one resource has free, as the arithmetic of amounts sees it: plain units, or chunks.

An operator is a value: a view makes one (`ResourceView.operator`), `arrange` steps through it, and
nothing here remembers who holds what. It says which amounts fit together, on topology too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class LinearUnits:
    """Units that are all alike (cores of a node, a quota). `units` is how many are free."""

    units: int

    def __post_init__(self) -> None:
        if self.units < 0:
            raise ValueError(f"free units cannot be negative, not {self.units}")

    @property
    def free_units(self) -> int:
        """The sum of what is free."""
        return self.units

    @property
    def most(self) -> int:
        """What a single grant could get at most."""
        return self.units

    def occupied(self, amount: int) -> int:
        """Units that a grant of `amount` keeps from all others."""
        return amount

    def longest_prefix(self, amounts: Iterable[int]) -> int:
        """How many of the amounts, from the first on, can be held all at once."""
        left, count = self.units, 0
        for amount in amounts:
            left -= amount
            if left < 0:
                break
            count += 1
        return count

    def less(self, amounts: Iterable[int]) -> LinearUnits:
        """What stays free beside these. Raises ValueError if they do not fit."""
        left = self.units - sum(amounts)
        if left < 0:
            raise ValueError(f"{self.units} units are free, {self.units - left} are asked for")
        return LinearUnits(left)

    def beside(self, amounts: Iterable[int]) -> LinearUnits:
        """What may be given away while these are kept: nothing if they do not fit themselves."""
        return LinearUnits(max(0, self.units - sum(amounts)))

    def joined(self, amount: int) -> LinearUnits:
        """With what a grant of `amount` holds beside it."""
        return LinearUnits(self.units + amount)


@dataclass(frozen=True, slots=True)
class ChunkCounts:
    """Aligned chunks of GPUs: `counts[level]` free ones of 2**level GPUs each.

    A grant of k GPUs is one chunk: k is rounded up to a power of two, the smallest free chunk that
    holds it is split in halves until one fits (a buddy allocator, as in HiveD, OSDI 2020). Whether
    amounts fit together does not depend on their order: they do exactly if at every level l the
    chunks of 2**l GPUs or more that they ask for, counted in pieces of 2**l, are no more than the
    free chunks of that size or more hold. So sums and prefixes may be taken one by one.
    """

    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 0:
            raise ValueError(f"chunk counts are one per level and not negative, not {self.counts}")

    @property
    def free_units(self) -> int:
        """The sum of what is free, in GPUs."""
        return sum(count << level for level, count in enumerate(self.counts))

    @property
    def most(self) -> int:
        """GPUs of the largest chunk: what a single grant could get at most."""
        return max((1 << level for level, count in enumerate(self.counts) if count), default=0)

    def occupied(self, amount: int) -> int:
        """GPUs that a grant of `amount` keeps from all others: the next power of two."""
        return 1 << level_of(amount)

    def after(self, amount: int) -> ChunkCounts | None:
        """What is free after one grant of `amount`; None if no chunk is large enough."""
        level = level_of(amount)
        found = next((n for n in range(level, len(self.counts)) if self.counts[n]), None)
        if found is None:
            return None
        counts = list(self.counts)
        counts[found] -= 1
        for left_over in range(level, found):
            counts[left_over] += 1
        return ChunkCounts(tuple(counts))

    def longest_prefix(self, amounts: Iterable[int]) -> int:
        """How many of the amounts, from the first on, can be held all at once."""
        free, count = self, 0
        for amount in amounts:
            taken = free.after(amount)
            if taken is None:
                break
            free, count = taken, count + 1
        return count

    def less(self, amounts: Iterable[int]) -> ChunkCounts:
        """What stays free beside these. Raises ValueError if they do not fit."""
        free = self
        for amount in amounts:
            taken = free.after(amount)
            if taken is None:
                raise ValueError(f"no chunk for {amount} GPUs among {free.counts}, level by level")
            free = taken
        return free

    def beside(self, amounts: Iterable[int]) -> ChunkCounts:
        """What may be given away while these are kept: nothing if they do not fit themselves."""
        free: ChunkCounts | None = self
        for amount in amounts:
            free = free.after(amount) if free is not None else None
        return free or ChunkCounts((0,) * len(self.counts))

    def joined(self, amount: int) -> ChunkCounts:
        """With the chunk that a grant of `amount` holds beside it. Whether it would merge with a
        free one is not known here, so it does not."""
        level = level_of(amount)
        counts = [*self.counts, *(0 for _ in range(level + 1 - len(self.counts)))]
        counts[level] += 1
        return ChunkCounts(tuple(counts))


Operator: TypeAlias = LinearUnits | ChunkCounts


def level_of(amount: int) -> int:
    """The level of the smallest chunk with `amount` GPUs: the least l with 2**l >= amount."""
    if amount < 1:
        raise ValueError(f"an amount is at least 1, not {amount}")
    return (amount - 1).bit_length()
