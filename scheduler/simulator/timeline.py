"""What is foreseen under virtual time, soonest first; at one instant in the order of being foreseen."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Timeline(Generic[T]):
    """Happenings to come. Nothing is taken back: who foresees one that may not come looks then."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._foreseen = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    @property
    def next_s(self) -> float | None:
        """When the next one is; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def add(self, at_s: float, what: T) -> None:
        # The count decides between equal times, so that happenings need not be comparable.
        self._foreseen += 1
        heapq.heappush(self._heap, (at_s, self._foreseen, what))

    def pop(self) -> tuple[float, T]:
        """When, and what. Raises IndexError if there is none."""
        at_s, _, what = heapq.heappop(self._heap)
        return at_s, what
