"""The granted actions of one resource whose end can be predicted, the first to end first.

Books how far each one is, so that the prediction stays right when its amount changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from .model import ResourceId
from .records import Entry

OVERDUE_SHARE = 0.1
"""Of the time that an action ran: how much longer it is expected to, once it is over its predicted
end."""


class Running:
    """Predicted ends of the holders of one resource. `len` counts them."""

    __slots__ = ("_ends", "_resource", "choosing")

    def __init__(self, resource: ResourceId) -> None:
        self._resource = resource
        self.choosing = 0
        """How many of them had their amount chosen."""
        self._ends: list[tuple[float, int, Entry]] = []

    def __len__(self) -> int:
        return len(self._ends)

    def ends(self, now: float, *, choosing: bool = False) -> list[tuple[float, int]]:
        """(predicted end, units), the first to end first; with `choosing` only of those whose
        amount was chosen. One that is over its end already is expected to go on for a share of the
        time that it ran."""
        late: list[tuple[float, int]] = []
        timely: list[tuple[float, int]] = []
        for end_s, _, entry in self._ends:
            if choosing and entry.choices is None:
                continue
            units = entry.amounts[self._resource]
            if end_s > now:
                timely.append((end_s, units))
            else:
                late.append((now + OVERDUE_SHARE * (now - entry.since_s), units))
        return sorted(late + timely) if late else timely

    def holders(self, now: float) -> list[tuple[float, int, int]]:
        """(predicted end, units, token) of those whose amount was chosen, the first to end first;
        one that is over its end as in `ends`."""
        return sorted(
            (
                end_s if end_s > now else now + OVERDUE_SHARE * (now - entry.since_s),
                entry.amounts[self._resource],
                token,
            )
            for end_s, token, entry in self._ends
            if entry.choices is not None
        )

    def entries(self) -> list[Entry]:
        return [entry for _, _, entry in self._ends]

    def start(self, entry: Entry, now: float) -> None:
        """It was granted. Nothing is booked if nothing is known of its duration."""
        entry.left, entry.since_s = 1.0, now
        self._book(entry)

    def drop(self, entry: Entry) -> None:
        """It holds nothing any more. Silent if it is not booked."""
        if entry.end_s is None:
            return
        index = bisect_left(self._ends, (entry.end_s, entry.token))
        del self._ends[index]
        entry.end_s = None
        self.choosing -= entry.choices is not None

    def advance(self, entry: Entry, now: float) -> None:
        """Before its amount changes: write down how far it is."""
        if entry.end_s is None:
            return
        span_s = entry.end_s - entry.since_s
        if span_s > 0:
            entry.left *= min(1.0, max(0.0, (entry.end_s - now) / span_s))
        self.drop(entry)
        entry.since_s = now

    def resume(self, entry: Entry) -> None:
        """After its amount changed."""
        self._book(entry)

    def _book(self, entry: Entry) -> None:
        run_s = entry.run_s(entry.amounts[self._resource])
        if run_s is None:
            return
        entry.end_s = entry.since_s + entry.left * run_s
        self.choosing += entry.choices is not None
        insort(self._ends, (entry.end_s, entry.token, entry))
