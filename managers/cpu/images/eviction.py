"""Which images go when the disk is full: least recently used first, never one in use or pinned. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Of the disk that holds the engine's images, in bytes."""

    used_bytes: int
    total_bytes: int

    @property
    def fraction(self) -> float:
        return self.used_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Evictable:
    """An image that Tangram pulled."""

    image_id: str
    last_used_unix_s: float
    in_use: int
    """Sandboxes that have it or wait for it."""
    pinned: bool


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Shares of the disk: above `high` images are evicted until it is at `low` or below."""

    high: float
    low: float

    def exceeded(self, use: DiskUse) -> bool:
        return use.fraction > self.high

    def reached(self, use: DiskUse) -> bool:
        """Whether enough is free again."""
        return use.fraction <= self.low


def eviction_order(images: Iterable[Evictable]) -> list[str]:
    """Ids of those that may go, in the order in which they go."""
    free = [image for image in images if not image.in_use and not image.pinned]
    return [i.image_id for i in sorted(free, key=lambda i: (i.last_used_unix_s, i.image_id))]
