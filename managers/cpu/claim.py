"""What of this machine a node hands out: its cores, memory and disk, as configured or as found.

Read once, at start; counting is the scheduler's and choosing cores `cores.py`'s.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..config import NodeConfig
from ..errors import PermanentError
from .cores import CorePool, format_cores, parse_cores, reserved_cores
from .topology import read_topology, usable_cores

MEMORY_SHARE = 0.9
"""Of the memory found, unless the configuration says how much: the rest is for the server, the
engine and the kernel."""

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A node's share of its machine."""

    pool: CorePool
    parking: tuple[int, ...]
    """Where idle sandboxes sit."""
    memory_bytes: int
    disk_bytes: int


def make_claim(config: NodeConfig) -> Claim:
    """Raises PermanentError if the configuration claims what the machine does not have."""
    pool = CorePool(_claimed_cores(config), read_topology())
    reserved = config.reserved_cores
    try:
        parking = pool.parking(reserved_cores(pool.total) if reserved is None else reserved)
    except ValueError as problem:
        raise PermanentError(str(problem)) from None
    config.state.mkdir(parents=True, exist_ok=True)
    return Claim(
        pool,
        parking,
        config.memory or _whole_mebibytes(found_memory_bytes() * MEMORY_SHARE),
        config.disk or _whole_mebibytes(shutil.disk_usage(config.state).free),
    )


def found_memory_bytes(limit_files: tuple[Path, ...] = _CGROUP_LIMITS) -> int:
    """The machine's memory, or the least limit of the group that this process is in."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in limit_files:
        try:
            text = file.read_text().strip()
        except OSError:
            continue  # The other version of control groups is mounted here.
        if text.isdecimal():  # v2 writes "max" where there is no limit
            found = min(found, int(text))
    return found


def _whole_mebibytes(size_bytes: float) -> int:
    """So that errors and status show what was found as people write it."""
    return int(size_bytes) >> 20 << 20


def _claimed_cores(config: NodeConfig) -> tuple[int, ...]:
    usable = usable_cores()
    if config.cores is None:
        return usable
    try:
        claimed = parse_cores(config.cores)
    except ValueError as problem:
        raise PermanentError(f"cores: {problem}") from None
    if not claimed or not set(claimed) <= set(usable):
        raise PermanentError(
            f"cores: {config.cores!r} must name cores that this process may use: "
            f"{format_cores(usable)}"
        )
    return claimed
