"""The GPUs of all nodes as aligned chunks, and the services resident on them. Pure.

A node's GPUs form a tree of cells of 1, 2, 4, 8 ... (HiveD, OSDI 2020, as in ARL-Tangram, arXiv
2603.13019, section 5.3): a chunk is a power of two long and starts at a multiple of its length. A
grant is one chunk. Which chunk of the right size is taken is free, and residency decides that:
where the service is still loaded nothing has to be restored, else those go that were used longest
ago, as many as have to for its room. Nothing here knows what a service is or how long a restore
takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ...scheduler.operators import level_of


class Chunk(NamedTuple):
    """GPUs `start` to `start + size - 1` of one node."""

    node: int
    start: int
    size: int

    @property
    def gpus(self) -> range:
        return range(self.start, self.start + self.size)

    @property
    def buddy(self) -> Chunk:
        """The one with which it makes the next larger chunk."""
        return Chunk(self.node, self.start ^ self.size, self.size)

    def merged(self) -> Chunk:
        """The next larger chunk around it."""
        return Chunk(self.node, self.start & ~self.size, 2 * self.size)

    def parts(self, size: int) -> Iterator[Chunk]:
        """The chunks of that size in it, from the first GPU on."""
        for start in range(self.start, self.start + self.size, size):
            yield Chunk(self.node, start, size)


class Replica(NamedTuple):
    """A service that is resident on a chunk."""

    chunk: Chunk
    service: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What one grant holds."""

    chunk: Chunk
    service: str
    restore: bool
    """Whether the service was not resident on this very chunk and has to be restored there."""
    evicted: tuple[Replica, ...]
    """What was resident on any of these GPUs until now and had to go, in the order of GPUs."""


@dataclass(slots=True)
class _Resident:
    replica: Replica
    room: float  # of each of its GPUs
    used: int  # the pool's count of uses when it was last taken or given back


ROUNDING = 1e-9
"""Shares of a GPU are fractions: ten of a tenth fit."""

_Key: TypeAlias = tuple[bool, int, int, int]

RoomOf: TypeAlias = Callable[[str, int], float]
"""(service, GPUs of its chunk) -> share of each GPU that it takes while it is resident, 0 to 1."""


def all_of_it(service: str, size: int) -> float:
    """Where nothing is known of a service's memory, no other stays beside it."""
    return 1.0


class ChunkPool:
    """Chunks of `nodes` nodes with `per_node` GPUs each; `per_node` is a power of two.

    A service is resident on each chunk on which it ran, until another one needs the room on any
    GPU of it; on another chunk or a larger one it is not resident.
    """

    def __init__(self, nodes: int, per_node: int, room_of: RoomOf = all_of_it) -> None:
        if per_node < 1 or per_node & (per_node - 1):
            raise ValueError(f"GPUs per node are a power of two, not {per_node}")
        self.per_node = per_node
        self.nodes = 0
        self._held: dict[Chunk, str] = {}
        """With the service that runs there."""
        self._free: list[set[Chunk]] = [set() for _ in range(level_of(per_node) + 1)]
        self._room_of = room_of
        self._on_gpu: dict[tuple[int, int], list[_Resident]] = {}
        self._uses = 0
        self.set_nodes(nodes)

    def set_nodes(self, nodes: int) -> None:
        """Nodes 0 to `nodes` - 1 are there. Chunks held on others stay held until they are given
        back; then they are gone."""
        if nodes < 0:
            raise ValueError(f"there cannot be {nodes} nodes")
        self.nodes = nodes
        for key in [key for key in self._on_gpu if key[0] >= nodes]:
            del self._on_gpu[key]
        for chunks in self._free:
            chunks.clear()
        for node in range(nodes):
            self._free_around_held(Chunk(node, 0, self.per_node))

    @property
    def counts(self) -> tuple[int, ...]:
        """Free chunks per level: of 1 GPU, 2, 4 and so on."""
        return tuple(len(chunks) for chunks in self._free)

    @property
    def held(self) -> int:
        """GPUs held by grants, those that only round a chunk up among them."""
        return sum(chunk.size for chunk in self._held)

    def largest_free(self) -> int:
        """GPUs of the largest free chunk, 0 if there is none."""
        return max((1 << level for level, free in enumerate(self._free) if free), default=0)

    def take(self, amount: int, service: str = "") -> Holding:
        """The best chunk for the service (none: ""). Raises ValueError if none is large enough."""
        found = self._best(amount, service)
        if found is None:
            raise ValueError(
                f"{amount} GPUs asked for, the largest chunk has {self.largest_free()}"
            )
        whole, chunk = found
        self._remove(whole)
        while whole != chunk:
            half = next(part for part in whole.parts(whole.size // 2) if chunk.start in part.gpus)
            self._add(half.buddy)
            whole = half
        self._held[chunk] = service
        restore = bool(service) and not self._resident_on(chunk, service)
        return Holding(chunk, service, restore, self._load(Replica(chunk, service)))

    def give(self, chunk: Chunk) -> None:
        """Back to the free ones, merged with its buddies. Raises ValueError if it is not held."""
        if chunk not in self._held:
            raise ValueError(f"{chunk} is not held")
        self._uses += 1
        for resident in self._residents(chunk):
            if resident.replica == (chunk, self._held[chunk]):
                resident.used = self._uses
        del self._held[chunk]
        if chunk.node >= self.nodes:
            return
        while chunk.size < self.per_node and chunk.buddy in self._free[level_of(chunk.size)]:
            self._remove(chunk.buddy)
            chunk = chunk.merged()
        self._add(chunk)

    def restore_needed(self, amount: int, service: str) -> bool:
        """Whether a grant of `amount` made now would have to restore the service. Raises ValueError
        if none could be made."""
        found = self._best(amount, service)
        if found is None:
            raise ValueError(
                f"{amount} GPUs asked for, the largest chunk has {self.largest_free()}"
            )
        return not self._resident_on(found[1], service)

    def resident_within(self, chunk: Chunk, amount: int, service: str) -> bool:
        """Whether the service is resident on a part of the chunk that serves so many GPUs."""
        size = 1 << level_of(amount)
        if size > chunk.size:
            return False
        return any(self._resident_on(part, service) for part in chunk.parts(size))

    def resident(self) -> list[Replica]:
        """In the order of nodes and GPUs."""
        return sorted({resident.replica for there in self._on_gpu.values() for resident in there})

    # Which chunk

    def _best(self, amount: int, service: str) -> tuple[Chunk, Chunk] | None:
        """The free chunk to use and its part to take, which may be all of it.

        Only chunks of the smallest level that suffices are looked at: to split a larger one for the
        sake of residency would leave fragments that a buddy allocator does not make.
        """
        level = level_of(amount)
        free = next((chunks for chunks in self._free[level:] if chunks), None)
        if free is None:
            return None
        parts = ((whole, part) for whole in free for part in whole.parts(1 << level))
        return min(parts, key=lambda pair: self._key(pair[1], service))

    def _key(self, chunk: Chunk, service: str) -> _Key:
        """Where the service is resident first, then where those who had to go were used longest ago
        (nobody first of all), then by place, so that equal histories choose alike."""
        if service and self._resident_on(chunk, service):
            return False, 0, chunk.node, chunk.start
        used = max((resident.used for resident in self._in_the_way(chunk, service)), default=0)
        return True, used, chunk.node, chunk.start

    # Residency

    def _residents(self, chunk: Chunk) -> list[_Resident]:
        """Those with a GPU in the chunk, each once, in the order of GPUs."""
        keys = ((chunk.node, gpu) for gpu in chunk.gpus)
        found = (resident for key in keys for resident in self._on_gpu.get(key, ()))
        return list({resident.replica: resident for resident in found}.values())

    def _resident_on(self, chunk: Chunk, service: str) -> bool:
        there = self._on_gpu.get((chunk.node, chunk.start), ())
        return any(resident.replica == (chunk, service) for resident in there)

    def _in_the_way(self, chunk: Chunk, service: str) -> list[_Resident]:
        """Who has to go so that the service fits on every GPU of the chunk: on each those used
        longest ago. What has no name may need all of it."""
        wanted = self._room_of(service, chunk.size) if service else 1.0
        going: dict[Replica, _Resident] = {}
        for gpu in chunk.gpus:
            there = self._on_gpu.get((chunk.node, gpu), [])
            staying = [resident for resident in there if resident.replica not in going]
            staying.sort(key=lambda resident: -resident.used)
            while staying and wanted + sum(r.room for r in staying) > 1 + ROUNDING:
                resident = staying.pop()
                going[resident.replica] = resident
        return list(going.values())

    def _load(self, replica: Replica) -> tuple[Replica, ...]:
        """It is resident and in use from now on (unless its service is ""); those that had to go
        for it."""
        self._uses += 1
        chunk, service = replica
        if service and self._resident_on(chunk, service):
            resident = next(r for r in self._residents(chunk) if r.replica == replica)
            resident.used = self._uses
            return ()
        going = self._in_the_way(chunk, service)
        for resident in going:
            for gpu in resident.replica.chunk.gpus:
                self._on_gpu[resident.replica.chunk.node, gpu].remove(resident)
        if service:
            loaded = _Resident(replica, self._room_of(service, chunk.size), self._uses)
            for gpu in chunk.gpus:
                self._on_gpu.setdefault((chunk.node, gpu), []).append(loaded)
        return tuple(sorted(resident.replica for resident in going))

    # The free chunks

    def _add(self, chunk: Chunk) -> None:
        self._free[level_of(chunk.size)].add(chunk)

    def _remove(self, chunk: Chunk) -> None:
        self._free[level_of(chunk.size)].remove(chunk)

    def _free_around_held(self, chunk: Chunk) -> None:
        """All of the chunk that is not held is free, in pieces as large as they can be."""
        if not any(held.node == chunk.node and held.start in chunk.gpus for held in self._held):
            self._add(chunk)
        elif chunk not in self._held:
            for half in chunk.parts(chunk.size // 2):
                self._free_around_held(half)
