"""The book of actions: every accepted one by id, ended ones as long as they are retained.

An answer is kept for `retain_s` at least, and until somebody was told, but never more than
`retain_actions` ended ones. Of what was dropped a tombstone stays, so that its id is refused and
never run again. Where tombstones end, the horizon begins: an unknown id that is older can not be
told from a dropped one and is refused too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from ..errors import IdExpired, NotFound
from ..scheduler import State
from .records import ActionRecord

UUID7 = 7

TOMBSTONE_S = 3600.0
"""How long a dropped action's id is remembered: longer than any client retries."""

TOMBSTONES_MAX = 1_000_000
"""Ids remembered, some 300 bytes each; half an hour of 500 actions a second."""

CLOCK_SKEW_S = 300.0
"""How far a client's clock may be from ours, ahead or behind; machines without NTP drift so far."""


class Tombstone(NamedTuple):
    """What stays of a dropped action."""

    state: State
    submitted_unix_s: float
    dropped: float
    """On the server's monotonic clock."""


class ActionBook:
    """All records, in order of submission."""

    def __init__(
        self,
        *,
        retain_s: float,
        retain_actions: int,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        """`unix_clock` gives the time that new ids are compared with."""
        self._retain_s = retain_s
        self._retain_actions = retain_actions
        self._unix_clock = unix_clock
        self._records: dict[str, ActionRecord] = {}
        self._live: dict[str, ActionRecord] = {}
        self._ended: dict[str, ActionRecord] = {}
        self._tombstones: dict[str, Tombstone] = {}
        self._horizon_unix_s = 0.0
        """Actions submitted before may be forgotten, id and all."""

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: ActionRecord) -> None:
        self._records[record.id] = record
        self._live[record.id] = record

    def remove(self, action_id: str) -> None:
        """Take back one that was refused after all."""
        self._records.pop(action_id, None)
        self._live.pop(action_id, None)
        self._ended.pop(action_id, None)

    def live(self) -> list[ActionRecord]:
        """Those that have not ended, oldest first."""
        return list(self._live.values())

    def find(self, action_id: str) -> ActionRecord | None:
        return self._records.get(action_id)

    def get(self, action_id: str) -> ActionRecord:
        """Raises NotFound."""
        record = self._records.get(action_id)
        if record is not None:
            return record
        why = "it was never submitted, or ended so long ago that it was dropped"
        if (tombstone := self._tombstones.get(action_id)) is not None:
            why = f"it ended as {tombstone.state} and its answer is no longer kept"
        raise NotFound(f"no action {action_id!r} is known: {why}", field="id")

    def newest_first(self) -> Iterator[ActionRecord]:
        return reversed(self._records.values())

    def check_age(self, action_id: str) -> None:
        """Raises IdExpired for an id that was dropped, and for an unknown one whose own time
        (UUIDv7) is so old that it may have been."""
        if (tombstone := self._tombstones.get(action_id)) is not None:
            raise IdExpired(
                f"action {action_id!r} ended as {tombstone.state} and its answer is no longer "
                "kept; use a new id to run it again",
                field="id",
            )
        made_unix_s = _uuid7_unix_s(action_id) if self._horizon_unix_s else None
        if made_unix_s is None:
            return
        # A clock that is ahead dates a forgotten id after the horizon; one that is behind dates a
        # new id before now.
        oldest_unix_s = min(self._horizon_unix_s + CLOCK_SKEW_S, self._unix_clock() - CLOCK_SKEW_S)
        if made_unix_s >= oldest_unix_s:
            return
        oldest = datetime.fromtimestamp(oldest_unix_s, UTC).isoformat(timespec="seconds")
        raise IdExpired(
            f"id {action_id} was made before {oldest}, the oldest that is remembered: it may have "
            "run already; use a new id, and check this machine's clock if the id is new",
            field="id",
        )

    def note_end(self, record: ActionRecord) -> None:
        """It has ended: from now on it is only retained."""
        self._live.pop(record.id, None)
        self._ended[record.id] = record

    def drop_old(self, now: float) -> list[ActionRecord]:
        """Forget ended ones that need not be retained, but for their ids; returns them. Their
        output is the caller's to discard."""
        dropped = self._told_long_ago(now)
        surplus = len(self._ended) - self._retain_actions
        if surplus > 0:
            # Those that nobody was told of stay longest.
            told = (record for record in self._ended.values() if record.answered)
            dropped += self._bury(list(islice(told, surplus)), now)
            surplus = len(self._ended) - self._retain_actions
            dropped += self._bury(list(islice(self._ended.values(), max(0, surplus))), now)
        self._forget_tombstones(now)
        return dropped

    def _told_long_ago(self, now: float) -> list[ActionRecord]:
        over: list[ActionRecord] = []
        for record in self._ended.values():  # in order of their ends
            if record.ended is not None and now - record.ended <= self._retain_s:
                break
            if record.answered:
                over.append(record)
        return self._bury(over, now)

    def _bury(self, records: list[ActionRecord], now: float) -> list[ActionRecord]:
        for record in records:
            del self._records[record.id], self._ended[record.id]
            self._tombstones[record.id] = Tombstone(record.state, record.submitted_unix_s, now)
        return records

    def _forget_tombstones(self, now: float) -> None:
        surplus = len(self._tombstones) - TOMBSTONES_MAX
        forgotten: list[str] = []
        for action_id, tombstone in self._tombstones.items():  # in order of their drops
            if len(forgotten) >= surplus and now - tombstone.dropped <= TOMBSTONE_S:
                break
            forgotten.append(action_id)
            self._horizon_unix_s = max(self._horizon_unix_s, tombstone.submitted_unix_s)
        for action_id in forgotten:
            del self._tombstones[action_id]


def _uuid7_unix_s(text: str) -> float | None:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return (parsed.int >> 80) / 1000 if parsed.version == UUID7 else None
