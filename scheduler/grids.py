"""Tables of best amounts by numpy, for units and chunks in whatever steps they are asked for.

The only file of this folder that imports numpy. What a table is for stands in `arrange`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .arrange import check_count
from .choices import Choices
from .operators import ChunkCounts, level_of

STATES_MAX = 1 << 16
"""States of a table: 65,535 free units, or what 384 GPUs break into. Of more, the rest is taken for
not free: a table stays exact for what it looks at."""

CELLS_MAX = 1 << 23
"""Cells of a table, 8 bytes each: 64 MiB. Candidates for which there is no row are left out; they
wait for the next pass, when those before them run."""

Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]


class _Grid(ABC):
    """Rows: prefixes; columns: states, each with the least total duration from it, or infinity.
    The state after a choice is found again when amounts are asked for, not stored."""

    def __init__(self, candidates: Sequence[Choices], states: int, start: int) -> None:
        self._candidates = candidates[: CELLS_MAX // states]
        self._start = start
        self._rows: Floats = np.full((len(self._candidates) + 1, states), np.inf)
        self._rows[0] = 0.0

    @property
    def longest(self) -> int:
        return int(np.isfinite(self._rows[:, self._start]).sum()) - 1

    def total_s(self, count: int) -> float:
        check_count(count, self.longest)
        return float(self._rows[count, self._start])

    def amounts(self, count: int) -> list[int]:
        check_count(count, self.longest)
        state, chosen = self._start, []
        for index in range(count - 1, -1, -1):
            state, amount = self._came_from(index, state)
            chosen.append(amount)
        return chosen[::-1]

    def _came_from(self, index: int, state: int) -> tuple[int, int]:
        """The smallest amount that makes the cell's total, and the state that it leaves."""
        cell, choices = self._rows.item, self._candidates[index]
        wanted = cell(index + 1, state)
        for amount, duration_s in zip(choices.units, choices.durations_s, strict=True):
            left = self._left(state, amount)
            # The same addition as when the row was made, so equality is exact.
            if left is not None and cell(index, left) + duration_s == wanted:
                return left, amount
        raise AssertionError("a finite cell came from somewhere")

    @abstractmethod
    def _left(self, state: int, amount: int) -> int | None:
        """The state after `amount` is taken; None if that much is not there."""


class LinearGrid(_Grid):
    """State s: s units are free."""

    def __init__(self, candidates: Sequence[Choices], units: int) -> None:
        usable = min(units, sum(choices.units[-1] for choices in candidates), STATES_MAX - 1)
        super().__init__(candidates, usable + 1, usable)
        rows, least = self._rows, 0
        sums: Floats = np.empty(usable + 1)
        for index, choices in enumerate(self._candidates):
            for amount, duration_s in zip(choices.units, choices.durations_s, strict=True):
                # Below `least` units the prefix before does not fit: nothing to look at there.
                left = rows[index, least : max(least, usable + 1 - amount)]
                np.add(left, duration_s, out=sums[: left.size])
                target = rows[index + 1, least + amount : least + amount + left.size]
                np.minimum(target, sums[: left.size], out=target)
            least += choices.minimum

    def _left(self, state: int, amount: int) -> int | None:
        return state - amount if state >= amount else None


class ChunkGrid(_Grid):
    """State: how many chunks of each level are free, counted in mixed radix.

    A level's count never exceeds what it was, or one: halves of a larger chunk appear only where
    none was free.
    """

    def __init__(self, candidates: Sequence[Choices], operator: ChunkCounts) -> None:
        counts = _fewer(operator.counts, len(candidates))
        fits = ChunkCounts(counts).longest_prefix(choices.minimum for choices in candidates)
        shape = tuple(max(count, 1) + 1 for count in counts)
        states = math.prod(shape)
        start = int(np.ravel_multi_index(counts, shape))
        super().__init__(candidates[:fits], states, start)
        self._after = [_after(shape, level) for level in range(len(shape))]
        rows = self._rows
        for index, choices in enumerate(self._candidates):
            for amount, duration_s in self._levelled(choices):
                known, left = self._after[level_of(amount)]
                target = rows[index + 1]
                target[known] = np.minimum(target[known], rows[index][left] + duration_s)

    def _levelled(self, choices: Choices) -> Iterator[tuple[int, float]]:
        """The choices for which there are chunks at all."""
        for amount, duration_s in zip(choices.units, choices.durations_s, strict=True):
            if level_of(amount) < len(self._after):
                yield amount, duration_s

    def _left(self, state: int, amount: int) -> int | None:
        level = level_of(amount)
        if level >= len(self._after):
            return None
        known, left = self._after[level]
        place = int(np.searchsorted(known, state))
        return int(left[place]) if place < known.size and known[place] == state else None


def _fewer(counts: tuple[int, ...], candidates: int) -> tuple[int, ...]:
    """No more chunks of a level than there are candidates to take them; if that still makes too
    many states, the most numerous level is halved until it does not."""
    fewer = [min(count, candidates) for count in counts]
    while math.prod(max(count, 1) + 1 for count in fewer) > STATES_MAX:
        fewer[fewer.index(max(fewer))] //= 2
    return tuple(fewer)


def _after(shape: tuple[int, ...], level: int) -> tuple[Indices, Indices]:
    """The states that have a chunk for this level, ascending, and what each of them leaves."""
    states: Indices = np.arange(math.prod(shape), dtype=np.intp)
    counts = np.unravel_index(states, shape)
    weights = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    left: Indices = np.full(states.size, -1, dtype=np.intp)
    halves, open_states = 0, np.ones(states.size, dtype=bool)
    for found in range(level, len(shape)):
        usable = open_states & (counts[found] > 0)
        left[usable] = states[usable] - weights[found] + halves
        open_states &= counts[found] == 0
        halves += weights[found]
    known: Indices = np.flatnonzero(left >= 0)
    return known, left[known]
