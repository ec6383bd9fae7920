"""How many sandboxes to have started ahead of need: arrivals in, target sizes out.

Pure: times are handed in, nothing is started here. The policy is base stock with a bounded
replenishment (Zipkin, Foundations of Inventory Management, 2000, chapter 7): each arrival takes one
sandbox off the shelf and orders the next, and orders are filled by a few starts at a time that take
as long as starts were measured to take. The orders that are open when an arrival comes are the stock
that it would have needed; the target is the most that any recent arrival needed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

START_S_GUESS = 0.5
"""Seconds, until a start was measured: between bubblewrap's and Docker's."""
LEARNING = 0.3
"""Weight of the latest start in the mean: a handful of starts decide, one slow one does not."""
ARRIVALS_MAX = 4096
"""Arrivals of one template that are remembered, and orders that may be open: no shelf is larger."""

_Key = TypeVar("_Key", bound=Hashable)


class Demand:
    """The recent arrivals of one template, each with the stock that it would have needed."""

    def __init__(self) -> None:
        self.start_s = START_S_GUESS
        """Seconds that a start takes, as lately measured."""
        self._measured = False
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=ARRIVALS_MAX)
        self._open_orders: deque[float] = deque(maxlen=ARRIVALS_MAX)
        """When each would be filled, ascending."""

    def arrived(self, now: float, lanes: int) -> None:
        """A trajectory came at `now`; `lanes` sandboxes start at a time."""
        orders = self._open_orders
        while orders and orders[0] <= now:
            orders.popleft()
        begins = orders[-lanes] if len(orders) >= lanes else now
        orders.append(begins + self.start_s)
        self._arrivals.append((now, len(orders)))

    def started(self, seconds: float) -> None:
        """A start was measured."""
        self.start_s += (seconds - self.start_s) * (LEARNING if self._measured else 1.0)
        self._measured = True

    def needs(self, since: float) -> list[int]:
        """At index n how many arrivals since then would have needed more than n sandboxes; arrivals
        before that are forgotten. Empty if there was none."""
        while self._arrivals and self._arrivals[0][0] < since:
            self._arrivals.popleft()
        counts = [0] * max((level for _, level in self._arrivals), default=0)
        for _, level in self._arrivals:
            counts[level - 1] += 1
        for n in reversed(range(len(counts) - 1)):
            counts[n] += counts[n + 1]
        return counts


def share_out(
    needs: Mapping[_Key, Sequence[int]], start_s: Mapping[_Key, float], limit: int
) -> dict[_Key, int]:
    """Target sizes that add up to `limit` at most: each next sandbox goes where it would have spared
    arrivals the most seconds of waiting. Greedy, and best, since the next one of a template never
    spares more than the one before it."""
    targets = dict.fromkeys(needs, 0)
    # Equal ones in the order of the templates: a heap must not compare keys.
    heap = [
        (-counts[0] * start_s[key], place, key)
        for place, (key, counts) in enumerate(needs.items())
        if counts
    ]
    heapq.heapify(heap)
    for _ in range(limit):
        if not heap:
            break
        _, place, key = heapq.heappop(heap)
        targets[key] += 1
        if targets[key] < len(needs[key]):
            heapq.heappush(heap, (-needs[key][targets[key]] * start_s[key], place, key))
    return targets
