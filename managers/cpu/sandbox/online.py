"""The file behind `nproc` and `os.cpu_count()` inside a sandbox: the list of its cores.

It is mounted over /sys/devices/system/cpu/online, by inode, so it is only ever rewritten in place.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..cores import format_cores


class OnlineFile:
    """One sandbox's file, kept open: it changes with every other action."""

    def __init__(self, path: Path, parking: tuple[int, ...]) -> None:
        """The file exists, or will at the first `show`; a sandbox that never ran shows `parking`."""
        self._path = path
        self._parking = parking
        self._fd = -1
        self._shown = ""

    def show(self, cores: tuple[int, ...] | None) -> None:
        """These cores, from now on; None leaves what the last action saw. No reader ever finds it
        empty: it is cut after it is written. Raises OSError."""
        if cores is None and self._shown:
            return
        text = format_cores(cores or self._parking) + "\n"
        if text == self._shown:
            return
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        os.pwrite(self._fd, text.encode(), 0)
        if len(text) < len(self._shown) or not self._shown:
            os.ftruncate(self._fd, len(text))
        self._shown = text

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
