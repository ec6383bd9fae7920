"""The images that Tangram itself pulled, kept on disk: only these may it ever remove.

A small JSON file in the server's state folder, written whole when something changed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

PREFETCH_PIN_S = 86400.0
"""Seconds, a day: how long a prefetched image that no sandbox has used yet is not evicted."""

TOUCH_SAVE_S = 60.0
"""Uses alone are written at most so often: a crash forgets a minute of them."""

VERSION = 1


@dataclass(slots=True)
class Pulled:
    """One image that was not here before Tangram pulled it."""

    image_id: str
    names: list[str]
    """The engine's names that the pull made; without them it is gone."""
    last_used_unix_s: float
    prefetched_unix_s: float | None = None
    """When it was prefetched, until a sandbox uses it."""


class Ledger:
    """All entries by image id. File IO is a millisecond at most, and rare."""

    def __init__(self, file: Path, unix_clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = unix_clock
        self._entries = _read(file)
        self._saved_at = 0.0

    def __iter__(self) -> Iterator[Pulled]:
        return iter(list(self._entries.values()))

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._entries

    def now(self) -> float:
        return self._clock()

    def get(self, image_id: str) -> Pulled | None:
        return self._entries.get(image_id)

    def add(self, image_id: str, names: list[str]) -> None:
        """It was pulled, under these names; added to those that it has."""
        entry = self._entries.setdefault(image_id, Pulled(image_id, [], self._clock()))
        entry.last_used_unix_s = self._clock()
        entry.names = list(dict.fromkeys([*entry.names, *names]))
        self._save()

    def use(self, image_id: str) -> None:
        """A sandbox has it now, or had it until now."""
        if (entry := self._entries.get(image_id)) is None:
            return
        entry.last_used_unix_s, entry.prefetched_unix_s = self._clock(), None
        if self._clock() - self._saved_at >= TOUCH_SAVE_S:
            self._save()

    def pin(self, image_id: str) -> None:
        """It was prefetched."""
        if (entry := self._entries.get(image_id)) is not None:
            entry.prefetched_unix_s = self._clock()
            self._save()

    def prefetched(self, image_id: str) -> bool:
        """Whether it waits for its first use since it was prefetched, for PREFETCH_PIN_S."""
        entry = self._entries.get(image_id)
        at = entry.prefetched_unix_s if entry is not None else None
        return at is not None and self._clock() - at < PREFETCH_PIN_S

    def remove(self, image_id: str) -> None:
        if self._entries.pop(image_id, None) is not None:
            self._save()

    def save(self) -> None:
        """Write what uses changed since the last time."""
        if self._entries:
            self._save()

    def _save(self) -> None:
        self._saved_at = self._clock()
        document = {"version": VERSION, "images": [asdict(entry) for entry in self]}
        draft = self._file.with_suffix(".draft")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(document))
            os.replace(draft, self._file)
        except OSError as problem:
            # No sandbox may fail for it: what is not in the file is not evicted after a restart.
            log.error("the list of pulled images is not written: %s", problem)


def _read(file: Path) -> dict[str, Pulled]:
    try:
        document = json.loads(file.read_text())
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']}, not {VERSION}")
        entries = [Pulled(**entry) for entry in document["images"]]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        log.error("%s is left aside, and what it lists is not evicted: %s", file, problem)
        return {}
    return {entry.image_id: entry for entry in entries}
