"""What the processes of a sandbox hold in memory, read from /proc; for where no cgroup counts it.

What counts is what only its processes hold: private and shared anonymous memory, swapped or not. Pages
of files, which the kernel takes back when it needs them, do not. All calls are short file IO.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CHEAP = ("status", ("RssAnon", "RssShmem", "VmSwap"))
"""Counted in full for each process that shares a page."""
_EXACT = ("smaps_rollup", ("Pss_Anon", "Pss_Shmem", "SwapPss"))
"""Counted in shares; the kernel walks all pages for it."""
_KIB = 1024


def memory_used_bytes(root: int, enough_bytes: int) -> int:
    """Of the process `root` with all its descendants, which is exact only above `enough_bytes`:
    below, it is at most what is returned. Processes that vanish meanwhile count nothing.
    """
    tree = list(_tree(root))
    cheap = {pid: _sum(pid, *_CHEAP) or 0 for pid in tree}
    total = sum(cheap.values())
    if total <= enough_bytes:
        return total
    return sum(_exact(pid, at_most) for pid, at_most in cheap.items())


def _exact(pid: int, at_most: int) -> int:
    """A process that may not be looked into (it changed its user), or a kernel that does not tell
    shares, is taken at the upper bound."""
    shares = _sum(pid, *_EXACT)
    return at_most if shares is None else min(shares, at_most)


def _tree(root: int) -> Iterator[int]:
    waiting = [root]
    seen = {root}
    while waiting:
        pid = waiting.pop()
        yield pid
        for child in _children(pid):
            if child not in seen:  # It may have got another parent while we looked.
                seen.add(child)
                waiting.append(child)


def _children(pid: int) -> Iterator[int]:
    """Each thread has its own."""
    try:
        for thread in (_PROC / str(pid) / "task").iterdir():
            yield from map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return  # It ended.


def _sum(pid: int, file: str, keys: tuple[str, ...]) -> int | None:
    """Of lines such as `RssAnon:  12 kB`; None where they cannot be read or are missing."""
    try:
        text = (_PROC / str(pid) / file).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        return None
    found = [line.split()[1] for line in text.splitlines() if line.partition(":")[0] in keys]
    return sum(map(int, found)) * _KIB if found else None
