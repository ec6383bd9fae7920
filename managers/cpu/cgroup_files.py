"""What the kernel calls its control files: cgroup v1 and v2 as two tables of the same shape.

Only names and formats, no IO: reading and writing is `cgroup.py`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cores import format_cores

QUOTA_PERIOD_US = 100_000
"""The kernel's default: shorter throttles more finely and costs more switches."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value for one control file."""

    controller: str
    file: str
    value: str


@dataclass(frozen=True, slots=True)
class Counter:
    """Where a number is read: a whole file, or the line of it that begins with `key`."""

    controller: str
    file: str
    key: str = ""


class Dialect(ABC):
    """How one cgroup version says what a sandbox needs."""

    version: int
    controllers: tuple[str, ...]
    """What a sandbox is put under, in this order."""
    oom_kills: Counter
    peak_memory: Counter
    pids_refused = Counter("pids", "pids.events", "max")

    @abstractmethod
    def folder(self, root: Path, controller: str, relative: str) -> Path:
        """Where the group `relative` stands for this controller."""

    @abstractmethod
    def memory(self, limit_bytes: int) -> list[Setting]:
        """The last one covers swap, and may be missing on this kernel."""

    @abstractmethod
    def quota(self, cores: int | None) -> Setting:
        """CPU time of so many cores; None is no limit."""

    @abstractmethod
    def weight(self, cores: int) -> Setting:
        """The share under contention, in proportion to the cores; 0 is the least there is."""

    @abstractmethod
    def freeze(self, on: bool) -> Setting:
        """Stop all that is in a group, or let it go on."""

    frozen: Counter
    """Where it is read whether all has stopped: it has if the file holds the key."""

    def cpuset(self, cores: Sequence[int]) -> Setting:
        return Setting("cpuset", "cpuset.cpus", format_cores(cores))

    def pids(self, count: int) -> Setting:
        return Setting("pids", "pids.max", str(count))


class DialectV1(Dialect):
    version = 1
    controllers = ("cpuset", "cpu", "memory", "pids", "freezer")
    oom_kills = Counter("memory", "memory.oom_control", "oom_kill")
    peak_memory = Counter("memory", "memory.max_usage_in_bytes")
    frozen = Counter("freezer", "freezer.state", "FROZEN")

    def folder(self, root: Path, controller: str, relative: str) -> Path:
        return root / controller / relative

    def memory(self, limit_bytes: int) -> list[Setting]:
        # memsw counts memory and swap together, so the same number means no swap.
        return [
            Setting("memory", "memory.limit_in_bytes", str(limit_bytes)),
            Setting("memory", "memory.memsw.limit_in_bytes", str(limit_bytes)),
        ]

    def quota(self, cores: int | None) -> Setting:
        value = "-1" if cores is None else str(cores * QUOTA_PERIOD_US)
        return Setting("cpu", "cpu.cfs_quota_us", value)

    def weight(self, cores: int) -> Setting:
        return Setting("cpu", "cpu.shares", str(min(1024 * cores, 262_144) or 2))

    def freeze(self, on: bool) -> Setting:
        return Setting("freezer", "freezer.state", "FROZEN" if on else "THAWED")


class DialectV2(Dialect):
    version = 2
    controllers = ("cpuset", "cpu", "memory", "pids")
    oom_kills = Counter("memory", "memory.events", "oom_kill")
    peak_memory = Counter("memory", "memory.peak")
    # Every group has these files; the controller is one that says where the group is.
    frozen = Counter("pids", "cgroup.events", "frozen 1")

    def folder(self, root: Path, controller: str, relative: str) -> Path:
        return root / relative

    def memory(self, limit_bytes: int) -> list[Setting]:
        return [
            Setting("memory", "memory.max", str(limit_bytes)),
            Setting("memory", "memory.swap.max", "0"),
        ]

    def quota(self, cores: int | None) -> Setting:
        value = "max" if cores is None else str(cores * QUOTA_PERIOD_US)
        return Setting("cpu", "cpu.max", f"{value} {QUOTA_PERIOD_US}")

    def weight(self, cores: int) -> Setting:
        return Setting("cpu", "cpu.weight", str(min(100 * cores, 10_000) or 1))

    def freeze(self, on: bool) -> Setting:
        return Setting("pids", "cgroup.freeze", "1" if on else "0")
