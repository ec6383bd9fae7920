"""Which cores are free, and which to take: pure, no IO; the simulator uses it as well.

A core is its id in the kernel's numbering. The machine's shape comes in as a `Topology`, read by
`topology.py`. Nothing here confines a process: that is `cgroup.py` and the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

RESERVE_NOTHING_BELOW_CORES = 8
"""Below this many cores a reserved one would cost more than the disturbance that it avoids."""
CORES_PER_RESERVED = 32
CORE_ID_MAX = 8191
"""The largest id the kernel can be built for (CONFIG_NR_CPUS); keeps "0-99999999" from being read."""


class CoreLeaseError(RuntimeError):
    """A core was taken or given back twice: a bug in the caller, never the user's fault."""


@dataclass(frozen=True, slots=True)
class Topology:
    """core id -> NUMA node. A core that is not named is on node 0."""

    node_of: Mapping[int, int]

    def node(self, core: int) -> int:
        return self.node_of.get(core, 0)


def parse_cores(text: str) -> tuple[int, ...]:
    """ "0-3,8" -> (0, 1, 2, 3, 8), sorted and without repeats; "" -> ().

    Raises ValueError, saying what a list of cores looks like.
    """
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is not a list of cores: write 0-3,8")
        low, high = int(first), int(last or first)
        if low > high or high > CORE_ID_MAX:
            raise ValueError(f"{part!r} is not a range of cores: ids rise and end at {CORE_ID_MAX}")
        cores.update(range(low, high + 1))
    return tuple(sorted(cores))


def format_cores(cores: Iterable[int]) -> str:
    """(0, 1, 2, 3, 8) -> "0-3,8": the form in which the kernel prints them as well."""
    runs: list[list[int]] = []
    for core in sorted(set(cores)):
        if runs and runs[-1][1] == core - 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def reserved_cores(total: int) -> int:
    """How many cores to keep from leases by default: none on a small machine, else one per 32."""
    if total < RESERVE_NOTHING_BELOW_CORES:
        return 0
    return max(1, total // CORES_PER_RESERVED)


class CorePool:
    """The cores that may be leased. Not thread-safe: one owner drives it."""

    def __init__(self, cores: Iterable[int], topology: Topology | None = None) -> None:
        self._all = tuple(sorted(set(cores)))
        if not self._all:
            raise ValueError("a pool needs at least one core")
        self._topology = topology or Topology({})
        self._free = set(self._all)
        self._set_aside: frozenset[int] = frozenset()

    @property
    def total(self) -> int:
        """Cores that leases can have, taken ones included."""
        return len(self._all) - len(self._set_aside)

    @property
    def free(self) -> int:
        return len(self._free)

    def parking(self, reserved: int) -> tuple[int, ...]:
        """Set `reserved` cores aside, never to be leased, and return where idle sandboxes sit:
        those, or every core when none is reserved. Call it before the first `take`.

        Raises ValueError if nothing would be left to lease.
        """
        if not 0 <= reserved < len(self._all):
            raise ValueError(
                f"reserved_cores is {reserved}, but must be 0 to {len(self._all) - 1} here"
            )
        if len(self._free) != self.total:
            raise CoreLeaseError("cores cannot be set aside while some are leased")
        self._set_aside = frozenset(self._all[:reserved])
        self._free = set(self._all) - self._set_aside
        return tuple(sorted(self._set_aside)) or self._all

    def take(self, count: int) -> tuple[int, ...]:
        """`count` free cores, sorted: of one NUMA node where they fit (the one they fill most),
        else of as few nodes as possible; lowest ids first.

        Raises ValueError for a count below 1, CoreLeaseError if fewer are free.
        """
        if count < 1:
            raise ValueError(f"{count} cores cannot be taken: take at least 1")
        if count > len(self._free):
            raise CoreLeaseError(f"{count} cores were to be taken, but {len(self._free)} are free")
        chosen = self._choose(count)
        self._free.difference_update(chosen)
        return tuple(sorted(chosen))

    def give(self, cores: Iterable[int]) -> None:
        """Put leased cores back. Raises CoreLeaseError, changing nothing, if one is free already,
        was never in the pool, or is named twice."""
        returned = list(cores)
        leasable = set(self._all) - self._set_aside
        wrong = [core for core in returned if core in self._free or core not in leasable]
        if wrong or len(set(returned)) != len(returned):
            raise CoreLeaseError(f"cores {returned} were given back, but are not all leased once")
        self._free.update(returned)

    def _choose(self, count: int) -> list[int]:
        free_on: dict[int, list[int]] = {}
        for core in sorted(self._free):
            free_on.setdefault(self._topology.node(core), []).append(core)
        fitting = [(len(cores), node) for node, cores in free_on.items() if len(cores) >= count]
        if fitting:
            return free_on[min(fitting)[1]][:count]
        # No node is enough: fill the emptiest ones first, so that the lease spans the fewest.
        by_room = sorted(free_on, key=lambda node: (-len(free_on[node]), node))
        return [core for node in by_room for core in free_on[node]][:count]
