"""What is counted of a node's starts and hand-overs, by launcher and image.

Images go by the name that trajectories use, a bounded number of them.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGES_MAX = 100
"""Images with counters of their own; what comes later counts as `other`, or a scraper would drown."""
OTHER = "other"


@dataclass(slots=True)
class ImageCounts:
    """Since the node was opened."""

    hits: int = 0
    """Trajectories that got a sandbox which stood ready."""
    misses: int = 0
    """Those that waited for one."""
    started: int = 0
    start_seconds: float = 0.0
    """Of all those together."""
    failed: int = 0
    """Starts that failed, and sandboxes that died before anybody had them."""


class Counts:
    """Of one node."""

    def __init__(self) -> None:
        self._images: dict[tuple[str, str], ImageCounts] = {}

    def of(self, launcher: str, image: str) -> ImageCounts:
        return self._images.setdefault(self.label(launcher, image), ImageCounts())

    def label(self, launcher: str, image: str) -> tuple[str, str]:
        """What it goes by."""
        key = (launcher, image)
        if key in self._images or len(self._images) < IMAGES_MAX:
            return key
        return (launcher, OTHER)

    def all(self) -> dict[tuple[str, str], ImageCounts]:
        return self._images
