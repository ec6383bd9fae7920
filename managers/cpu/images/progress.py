"""How far a pull is, out of what the engine tells layer by layer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNPACKED_SHARE = 0.3
"""Of a layer's work, what is left once it is downloaded: unpacking it on a usual disk."""

_DONE = frozenset({"Pull complete", "Already exists"})


@dataclass(slots=True)
class _Layer:
    size_bytes: int = 0
    """0 until it is known, which is when its download begins."""
    done: float = 0.0


class PullProgress:
    """The share of a pull that is done. It never goes back."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}
        self._reached = 0.0

    @property
    def fraction(self) -> float | None:
        """0 to 1; None until the engine has named a layer."""
        if not self._layers:
            return None
        known = [layer.size_bytes for layer in self._layers.values() if layer.size_bytes]
        # What waits for its download is counted as an average layer.
        usual = sum(known) / len(known) if known else 1.0
        weights = [(layer.size_bytes or usual, layer.done) for layer in self._layers.values()]
        now = sum(w * done for w, done in weights) / sum(w for w, _ in weights)
        self._reached = max(self._reached, min(now, 1.0))
        return self._reached

    def feed(self, message: Mapping[str, Any]) -> None:
        """One message of the engine's stream: {"id", "status", "progressDetail"}."""
        status, name = str(message.get("status", "")), str(message.get("id", ""))
        if not name or status.startswith("Pulling from"):
            return
        layer = self._layers.setdefault(name, _Layer())
        detail = message.get("progressDetail") or {}
        current, total = float(detail.get("current") or 0), float(detail.get("total") or 0)
        if status in _DONE:
            layer.done = 1.0
        elif status == "Downloading" and total > 0:
            layer.size_bytes = int(total)
            layer.done = (1 - UNPACKED_SHARE) * min(1.0, current / total)
        elif status in ("Download complete", "Verifying Checksum"):
            layer.done = max(layer.done, 1 - UNPACKED_SHARE)
        elif status == "Extracting" and total > 0:
            layer.done = 1 - UNPACKED_SHARE * (1 - min(1.0, current / total))
