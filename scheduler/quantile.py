"""Quantiles of the most recent values of a stream: exact, in bounded memory, without numpy.

Nothing here knows what the values are. What is learned from them stands in `profile`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator


class RecentQuantiles:
    """The last `size` values, in the order of their arrival and in the order of their size.

    A sliding window by count: of a stream that shifts, the median is the new one's after
    size / 2 + 1 values, and nothing of the old one is left after `size`. `add` costs two binary
    searches and two short moves in memory (below a microsecond for hundreds of values), `at` nothing.
    """

    __slots__ = ("_ordered", "_recent", "size")

    def __init__(self, size: int, values: Iterable[float] = ()) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        self.size = size
        self._recent: deque[float] = deque(values, size)
        self._ordered = sorted(self._recent)

    def __len__(self) -> int:
        return len(self._recent)

    def __iter__(self) -> Iterator[float]:
        """In the order of arrival, the oldest first."""
        return iter(self._recent)

    def add(self, value: float) -> None:
        if len(self._recent) == self.size:
            del self._ordered[bisect_left(self._ordered, self._recent[0])]
        self._recent.append(value)
        insort(self._ordered, value)

    def at(self, share: float) -> float:
        """The value below which `share` (0 to 1) of the window lies, linear between neighbours.

        Raises IndexError if there are no values.
        """
        ordered = self._ordered
        position = share * (len(ordered) - 1)
        below = int(position)
        value = ordered[below]
        if below == position:
            return value
        return value + (position - below) * (ordered[below + 1] - value)
