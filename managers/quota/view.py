"""How a quota is counted: units held at once, and units begun within sliding periods. Pure.

Handed to the scheduler under the name `QUOTA_VIEW`. A unit counts against the concurrency while a
grant holds it, and against each window for that window's whole period from the moment it was
granted: giving it back early returns the concurrency, never the window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...scheduler.model import Capacity, WaitReason
from ...scheduler.operators import LinearUnits

QUOTA_VIEW = "quota"
"""`Capacity.view` of a quota. Its parameters are `{"concurrency": int | None, "windows":
((rate, period_s), ...)}`, with at least one limit."""

LOG_ENTRIES_MAX = 4096
"""Grants that a window remembers one by one. Beyond that it merges those that are less than a
1/LOG_ENTRIES_MAX of its period apart, as if all had come with the last: never more than the rate is
admitted, at most that sliver of the period too late. So a log never exceeds twice this length."""


@dataclass(slots=True)
class _Entry:
    first: float
    at: float
    amount: int


@dataclass(slots=True)
class _Window:
    """At most `rate` units in any half-open stretch of `period_s` seconds: a sliding log.

    An entry counts until `at + period_s`. `admits_at` and `expire` compare with that very sum, so
    that the promised instant is the one at which the units are free.
    """

    rate: int
    period_s: float
    log: deque[_Entry] = field(default_factory=deque)
    used: int = 0

    def expire(self, now: float) -> None:
        while self.log and self.log[0].at + self.period_s <= now:
            self.used -= self.log.popleft().amount

    def room(self, now: float) -> int:
        self.expire(now)
        return self.rate - self.used

    def add(self, amount: int, now: float) -> None:
        self.used += amount
        last = self.log[-1] if self.log else None
        if last is not None and (last.at == now or self._merges(last, now)):
            last.at = now
            last.amount += amount
            return
        self.log.append(_Entry(now, now, amount))

    def _merges(self, last: _Entry, now: float) -> bool:
        sliver_s = self.period_s / LOG_ENTRIES_MAX
        return len(self.log) >= LOG_ENTRIES_MAX and now - last.first < sliver_s

    def admits_at(self, amount: int, now: float) -> float | None:
        """The first instant from `now` on with room for `amount`; None if it never has."""
        room = self.room(now)
        if room >= amount:
            return now
        for entry in self.log:
            room += entry.amount
            if room >= amount:
                return entry.at + self.period_s
        return None


class QuotaView:
    """The free and taken units of one quota: a `scheduler.resource.ResourceView`."""

    def __init__(self, capacity: Capacity) -> None:
        self._name = str(capacity.resource)
        self._held: dict[int, int] = {}
        self._taken = 0
        self._windows: list[_Window] = []
        self._concurrency: int | None = None
        self._total = 0
        self._closed_until: float | None = None
        self.adjust(capacity, 0.0)

    @property
    def total(self) -> int:
        return self._total

    @property
    def taken(self) -> int:
        """Units held now. With windows alone it may exceed `total`: slow calls of several periods
        are held at once."""
        return self._taken

    def largest(self) -> int:
        limits = [window.rate for window in self._windows]
        if self._concurrency is not None:
            limits.append(self._concurrency)
        return min(limits)

    def free(self, now: float) -> int:
        if self.closed_until(now) is not None:
            return 0
        return max(0, min(self._rooms(now)))

    def operator(self, now: float) -> LinearUnits:
        return LinearUnits(self.free(now))

    def take(self, token: int, amount: int, now: float, tag: str = "") -> None:
        if token in self._held:
            raise ValueError(f"token {token} already holds {self._held[token]} of {self._name}")
        self._admit(amount, now)
        self._held[token] = amount

    def could_resize(self, token: int, amount: int, now: float) -> bool:
        more = amount - self._held.get(token, 0)
        return token in self._held and (more <= 0 or more <= self.free(now))

    def resize(self, token: int, amount: int, now: float) -> None:
        if token not in self._held:
            raise ValueError(f"token {token} holds nothing of {self._name}")
        more = amount - self._held[token]
        if more > 0:
            self._admit(more, now)
        else:
            self._taken += more
        self._held[token] = amount

    def give(self, token: int, now: float) -> None:
        self._taken -= self._held.pop(token, 0)

    def next_change(self, now: float) -> float | None:
        wanted = self.free(now) + 1
        if self._concurrency is not None and self._concurrency - self._taken < wanted:
            return None
        # Every limit only loosens while nothing is taken, so the last of them to admit decides.
        closed_until = self.closed_until(now)
        latest = now if closed_until is None else closed_until
        for window in self._windows:
            admits = window.admits_at(wanted, now)
            if admits is None:
                return None
            latest = max(latest, admits)
        return latest if latest > now else None

    def why_short(self, amount: int, now: float) -> WaitReason:
        if self.closed_until(now) is not None:
            return WaitReason.QUOTA_CLOSED
        if self._concurrency is not None and self._concurrency - self._taken < amount:
            return WaitReason.QUOTA
        return WaitReason.RATE

    def adjust(self, capacity: Capacity, now: float) -> None:
        """New limits, with what is known of the past: a new period longer than all before it
        begins to count where those ended."""
        if not capacity.total and not capacity.parameters:
            # Offered no more: what is held stays held, and nothing is granted.
            self._concurrency, self._total = 0, 0
            return
        known = max(self._windows, key=lambda window: window.period_s, default=None)
        concurrency = capacity.parameters.get("concurrency")
        windows = [_Window(r, p) for r, p in capacity.parameters.get("windows", ())]
        if concurrency is None and not windows:
            raise ValueError(f"{capacity.resource} has neither a concurrency nor a window")
        for window in windows:
            for entry in known.log if known is not None else ():
                window.log.append(_Entry(entry.first, entry.at, entry.amount))
                window.used += entry.amount
            window.expire(now)
        self._concurrency, self._windows = concurrency, windows
        self._total = capacity.total

    def close(self, until: float) -> None:
        """Grant nothing before `until`. An earlier `until` than the one that holds changes nothing:
        several answers of one provider arrive in any order."""
        if self._closed_until is None or until > self._closed_until:
            self._closed_until = until

    def closed_until(self, now: float) -> float | None:
        """When it opens again; None if it is open at `now`."""
        if self._closed_until is not None and self._closed_until <= now:
            self._closed_until = None
        return self._closed_until

    def _admit(self, amount: int, now: float) -> None:
        if amount > self.free(now):
            raise ValueError(f"{amount} of {self._name} asked for, {self.free(now)} free")
        self._taken += amount
        for window in self._windows:
            window.add(amount, now)

    def _rooms(self, now: float) -> Iterator[int]:
        if self._concurrency is not None:
            yield self._concurrency - self._taken
        for window in self._windows:
            yield window.room(now)


def quota_total(concurrency: int | None, windows: Iterable[tuple[int, float]]) -> int:
    """The units that `status` shows as a quota's limit: those at once, else the tightest rate."""
    if concurrency is not None:
        return concurrency
    return min(rate for rate, _ in windows)
