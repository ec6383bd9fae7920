"""Discrete amounts for elastic actions: the least total duration of every prefix of the candidates.

The dynamic programme of ARL-Tangram (DPArrange, arXiv 2603.13019, section 4.2 and appendix B), in
one table that answers for all prefixes, so that evicting candidates from the end needs no second
one. It differs from the printed form: units may stay idle (the printed one reads the state in which
all are used, which may be unreachable), feasibility is "the state can be reached" instead of a
recursion, and chunks of GPUs are split as the allocator does it (`operators.ChunkCounts`).

With n candidates, m states of the operator and S choices each it costs O(n m S), by numpy (`grids`,
which is imported when it is needed: a client that simulates does without). Where the units are all
alike and no unit saves more than the one before it, giving unit by unit where it saves most is exact
as well, in O((n + m) log m).
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Protocol

from .choices import Choices
from .operators import LinearUnits, Operator


class PrefixTable(Protocol):
    """The best amounts for each prefix of the candidates that fits at its minimum amounts."""

    @property
    def longest(self) -> int:
        """Candidates in the longest prefix that fits."""
        ...

    def total_s(self, count: int) -> float:
        """The least sum of durations of the first `count` candidates together. Raises IndexError
        beyond the longest prefix."""
        ...

    def amounts(self, count: int) -> list[int]:
        """What each of the first `count` candidates gets for that. Raises IndexError beyond the
        longest prefix."""
        ...


def tabulate(candidates: Sequence[Choices], operator: Operator) -> PrefixTable:
    """The table for these candidates, in their order, over what the operator has free."""
    if isinstance(operator, LinearUnits):
        fitting = candidates[: operator.longest_prefix(c.minimum for c in candidates)]
        if all(choices.steady for choices in fitting):
            return _GainTable(fitting, operator.units)
        from .grids import LinearGrid

        return LinearGrid(fitting, operator.units)
    from .grids import ChunkGrid

    return ChunkGrid(candidates, operator)


class _GainTable:
    """Unit by unit to whom it saves most: exact where gains never rise.

    Without its last candidate a prefix has more units for fewer, and who had a unit keeps it. So
    the table is filled from the longest prefix down, as far as is asked for, and one heap serves.
    """

    def __init__(self, candidates: Sequence[Choices], units: int) -> None:
        self._candidates = candidates
        self._minima = [choices.minimum for choices in candidates]
        self._above = [0] * len(candidates)
        """Units above the minimum, in the shortest prefix so far."""
        self._wanted: list[tuple[float, int]] = []
        """What the next unit would save whom, negated: of equal gains the older candidate's first."""
        for index in range(len(candidates)):
            self._want(index)
        self._spare = units - sum(self._minima)
        self._total_s = sum(choices.durations_s[0] for choices in candidates)
        self._hand_out(len(candidates))
        self._most = self._above[:]
        self._totals_s = [self._total_s]
        self._handed: list[list[int]] = []
        """Per candidate taken out, the last one first: who got units for that."""

    @property
    def longest(self) -> int:
        return len(self._candidates)

    def total_s(self, count: int) -> float:
        return self._totals_s[self._shorten(count)]

    def amounts(self, count: int) -> list[int]:
        above = self._most[:]
        for handed in self._handed[: self._shorten(count)]:
            for index in handed:
                above[index] += 1
        return [least + more for least, more in zip(self._minima[:count], above, strict=False)]

    def _shorten(self, count: int) -> int:
        """See to it that this prefix is known; how many candidates it leaves out."""
        check_count(count, self.longest)
        for last in range(self.longest - len(self._handed) - 1, count - 1, -1):
            choices, above = self._candidates[last], self._above[last]
            self._spare += choices.minimum + above
            self._total_s -= choices.durations_s[above]
            self._handed.append(self._hand_out(last))
            self._totals_s.append(self._total_s)
        return self.longest - count

    def _hand_out(self, count: int) -> list[int]:
        """The spare units to the first `count` candidates; who got them, once for each unit."""
        handed = []
        while self._spare and self._wanted:
            gain_s, index = heappop(self._wanted)
            if index >= count:
                continue
            self._spare -= 1
            self._total_s += gain_s
            self._above[index] += 1
            handed.append(index)
            self._want(index)
        return handed

    def _want(self, index: int) -> None:
        gain_s = self._candidates[index].gain_s(self._above[index])
        if gain_s > 0:
            heappush(self._wanted, (-gain_s, index))


def check_count(count: int, most: int) -> None:
    if not 0 <= count <= most:
        raise IndexError(f"prefixes of 0 to {most} candidates fit, not of {count}")
