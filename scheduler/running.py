"""The granted actions of one resource whose end can be predicted, the first to end first.

Books how far each one is, so that the prediction stays right when its amount changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from .model import ResourceId
from .records import Entry

OVERDUE_SHARE = 0.1
"""Of the time that an action ran: how much longer it is expected to, once it is over its predicted
end."""

LEFT_MIN = 0.02
"""Share of its work that an action has left at least while it runs, whatever was predicted."""


class Running:
    """Predicted ends of the holders of one resource. `len` counts them."""

    __slots__ = ("_ends", "_resource", "choosing", "malleable")

    def __init__(self, resource: ResourceId) -> None:
        self._resource = resource
        self.choosing = 0
        """How many of them had their amount chosen."""
        self.malleable: dict[int, Entry] = {}
        """By token, those whose amount was chosen and may be chosen anew."""
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

    def held(self) -> int:
        """Units of all whose amount was chosen."""
        return sum(entry.amounts[self._resource] for _, _, entry in self._ends if entry.choices)

    def keeping(self) -> int:
        """Units of those among them whose amount may not change."""
        movable = sum(entry.amounts[self._resource] for entry in self.malleable.values())
        return self.held() - movable

    def left(self, entry: Entry, now: float) -> float:
        """Share of a booked action's work that is left, as predicted."""
        if entry.end_s is None or entry.end_s <= entry.since_s:
            return entry.left
        return entry.left * min(1.0, max(LEFT_MIN, _ahead(entry.since_s, entry.end_s, now)))

    def work_s(self, entry: Entry, now: float) -> float:
        """Unit-seconds that are left to one whose amount was chosen, at its least amount."""
        assert entry.choices is not None
        return self.left(entry, now) * entry.choices.work_s

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

    def start(self, entries: Iterable[Entry]) -> None:
        """These were granted, and run since their `since_s`. Nothing is booked of those of whose
        duration nothing is known."""
        for entry in entries:
            self._book(entry)

    def drop(self, entry: Entry) -> None:
        """It holds nothing any more. Silent if it is not booked."""
        if entry.end_s is None:
            return
        index = bisect_left(self._ends, (entry.end_s, entry.token))
        del self._ends[index]
        entry.end_s = None
        self.choosing -= entry.choices is not None
        self.malleable.pop(entry.token, None)

    def advance(self, entry: Entry, now: float) -> None:
        """Before its amount changes: write down how far it is."""
        if entry.end_s is None:
            return
        entry.left = self.left(entry, now)
        self.drop(entry)
        entry.since_s = now

    def resume(self, entry: Entry) -> None:
        """After its amount changed."""
        self._book(entry)

    def _book(self, entry: Entry) -> None:
        run_s = entry.run_s(entry.amounts[self._resource])
        if run_s is None:
            return
        end_s = entry.end_s = entry.since_s + entry.left * run_s
        if entry.choices is not None:
            self.choosing += 1
            if entry.action.malleable and not entry.stiff:
                self.malleable[entry.token] = entry
        insort(self._ends, (end_s, entry.token, entry))


def _ahead(start_s: float, end_s: float, now: float) -> float:
    """Share of the time from start to end that lies after now."""
    return (end_s - now) / (end_s - start_s)
