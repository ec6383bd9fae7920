"""Which digest each task means by a tag: decided once, then the same for all its trajectories. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

KEPT_S = 3600.0
"""Seconds that a task's digest is kept after its last use; a task that comes back later is a new one."""

KEPT_MAX = 100_000
"""Digests remembered, about 500 bytes each; of more, the longest unused go first."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means to a task."""

    name: str
    digest: str
    """Of the manifest at its registry; of an image that came from none, its id."""
    image_id: str
    """On this node; "" until it is here."""


@dataclass(slots=True)
class _Kept:
    resolved: Resolved
    used_at: float


class Resolutions:
    """(task, name) -> `Resolved`. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._held: Counter[tuple[str, str]] = Counter()

    def get(self, task: str, name: str, now: float) -> Resolved | None:
        """What the task means, if that was decided and is held, or was used within KEPT_S."""
        key = (task, name)
        if (kept := self._kept.get(key)) is None:
            return None
        if not self._held[key] and now - kept.used_at > KEPT_S:
            del self._kept[key]
            return None
        kept.used_at = now
        self._kept.move_to_end(key)
        return kept.resolved

    def put(self, task: str, resolved: Resolved, now: float) -> Resolved:
        """Decide, unless it was decided meanwhile with another digest; what holds now."""
        key = (task, resolved.name)
        known = self.get(task, resolved.name, now)
        if known is not None and known.digest != resolved.digest:
            return known
        self._kept[key] = _Kept(resolved, now)
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return resolved

    def hold(self, task: str, name: str) -> None:
        """One more sandbox of the task has it."""
        self._held[task, name] += 1

    def let_go(self, task: str, name: str, now: float) -> None:
        """One that had it is gone."""
        self.get(task, name, now)
        self._held[task, name] -= 1
        if not self._held[task, name]:
            del self._held[task, name]
