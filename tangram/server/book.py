"""The book of actions: every accepted one by id, ended ones as long as they are retained.

An answer is kept for `retain_s` at least, and until somebody was told, but never more than
`retain_actions` ended ones. What was dropped moves the horizon: an unknown id that is older can not
be told from a dropped one and is refused, never run again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from ..errors import IdExpired, NotFound
from .records import ActionRecord

UUID7 = 7


class ActionBook:
    """All records, in order of submission."""

    def __init__(self, *, retain_s: float, retain_actions: int) -> None:
        self._retain_s = retain_s
        self._retain_actions = retain_actions
        self._records: dict[str, ActionRecord] = {}
        self._live: dict[str, ActionRecord] = {}
        self.horizon_unix_s = 0.0
        """Actions submitted before may have been dropped."""

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: ActionRecord) -> None:
        self._records[record.id] = record
        self._live[record.id] = record

    def remove(self, action_id: str) -> None:
        """Take back one that was refused after all."""
        self._records.pop(action_id, None)
        self._live.pop(action_id, None)

    def live(self) -> list[ActionRecord]:
        """Those that have not ended, oldest first."""
        return list(self._live.values())

    def find(self, action_id: str) -> ActionRecord | None:
        return self._records.get(action_id)

    def get(self, action_id: str) -> ActionRecord:
        """Raises NotFound."""
        record = self._records.get(action_id)
        if record is None:
            raise NotFound(
                f"no action {action_id!r} is known: it was never submitted, or ended so long ago "
                "that it was dropped",
                field="id",
            )
        return record

    def newest_first(self) -> Iterator[ActionRecord]:
        return reversed(self._records.values())

    def check_age(self, action_id: str) -> None:
        """Raises IdExpired for a new id whose own time (UUIDv7) is before the horizon."""
        made = _uuid7_unix_s(action_id) if self.horizon_unix_s else None
        if made is None or made >= self.horizon_unix_s:
            return
        oldest = datetime.fromtimestamp(self.horizon_unix_s, UTC).isoformat(timespec="seconds")
        raise IdExpired(
            f"id {action_id} was made before {oldest}, the oldest that is remembered: it may have "
            "run already; use a new id",
            field="id",
        )

    def note_end(self, record: ActionRecord) -> None:
        """It has ended: from now on it is only retained."""
        self._live.pop(record.id, None)

    def drop_old(self, now: float) -> list[ActionRecord]:
        """Forget ended ones that need not be retained; returns them."""
        dropped: list[ActionRecord] = []
        ended = len(self._records) - len(self._live)
        for record in self._records.values():
            if record.ended is None:
                continue
            told_long_ago = record.answered and now - record.ended > self._retain_s
            too_many = ended - len(dropped) > self._retain_actions
            if not (told_long_ago or too_many):
                break
            dropped.append(record)
        for record in dropped:
            del self._records[record.id]
            self.horizon_unix_s = max(self.horizon_unix_s, record.submitted_unix_s)
            record.output.discard()
        return dropped


def _uuid7_unix_s(text: str) -> float | None:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return (parsed.int >> 80) / 1000 if parsed.version == UUID7 else None
