"""How the GPUs of all nodes are counted for the scheduler: a `scheduler.resource.ResourceView`. Pure.

One resource over the whole cluster, since a grant may land on any node; which GPUs it gets is this
view's answer (`held`), not the scheduler's decision. Handed over under the name `CHUNKS_VIEW`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ...scheduler.model import Capacity, WaitReason
from ...scheduler.operators import ChunkCounts
from .chunks import ChunkPool, Holding

CHUNKS_VIEW = "chunks"
"""`Capacity.view` of GPUs. Its parameters are `{"nodes": n, "per_node": a power of two}`, and the
total is their product. Beside these `"restore_s": {service: {GPUs: seconds}}` may say how long it
takes to bring a service back to so many GPUs; one that is not named takes no time. `"room":
{service: {GPUs: share}}` is the share of each of so many GPUs that a service takes while it stays
there, 0 to 1; one that is not named takes all."""

NODES_MAX = 4096
"""Nodes with GPUs of one pool: eight times the largest that is reported for reward services."""

PER_NODE_MAX = 64
"""GPUs of one node: four times what the largest machines hold."""

RESTORE_S_MAX = 86_400.0
"""A service that takes longer than a day to be restored is a mistake."""


Table: TypeAlias = dict[str, dict[int, float]]


class ChunksView:
    """The free and held GPUs. Every grant is one aligned chunk, so it is rounded up to a power of
    two: `taken` counts what is kept from others, not what was asked for."""

    def __init__(self, capacity: Capacity) -> None:
        self._name = str(capacity.resource)
        nodes, per_node = self._shape(capacity, per_node=0)
        self._restores_s = self._table(capacity, "restore_s", RESTORE_S_MAX)
        self._rooms = self._table(capacity, "room", 1.0)
        self._pool = ChunkPool(nodes, per_node, self._room)
        self._held: dict[int, Holding] = {}

    @property
    def total(self) -> int:
        return self._pool.nodes * self._pool.per_node

    @property
    def taken(self) -> int:
        return self._pool.held

    def largest(self) -> int:
        return self._pool.per_node if self._pool.nodes else 0

    def free(self, now: float) -> int:
        """GPUs of the largest free chunk, which may be far less than are free in all."""
        return self._pool.largest_free()

    def operator(self, now: float) -> ChunkCounts:
        return ChunkCounts(self._pool.counts)

    def take(self, token: int, amount: int, now: float, tag: str = "") -> None:
        """`tag` is the service that will run there."""
        if token in self._held:
            raise ValueError(f"token {token} already holds {self._held[token].chunk}")
        self._held[token] = self._pool.take(amount, tag)

    def could_resize(self, token: int, amount: int, now: float) -> bool:
        """Only if the same chunk serves it."""
        if token not in self._held or not 0 < amount <= self.largest():
            return False
        return self.operator(now).occupied(amount) == self._held[token].chunk.size

    def resize(self, token: int, amount: int, now: float) -> None:
        """Only to an amount that the same chunk serves: a service cannot move while it runs."""
        holding = self.held(token)
        if self.operator(now).occupied(amount) != holding.chunk.size:
            raise ValueError(
                f"{holding.chunk.size} GPUs cannot be made {amount} while they are held"
            )

    def give(self, token: int, now: float) -> None:
        holding = self._held.pop(token, None)
        if holding is not None:
            self._pool.give(holding.chunk)

    def next_change(self, now: float) -> float | None:
        return None

    def why_short(self, amount: int, now: float) -> WaitReason:
        return WaitReason.GPUS

    def adjust(self, capacity: Capacity, now: float) -> None:
        """More nodes or fewer, the last of them; never other nodes."""
        nodes, _ = self._shape(capacity, self._pool.per_node)
        if "restore_s" in capacity.parameters:
            self._restores_s = self._table(capacity, "restore_s", RESTORE_S_MAX)
        if "room" in capacity.parameters:
            self._rooms = self._table(capacity, "room", 1.0)
        self._pool.set_nodes(nodes)

    def held(self, token: int) -> Holding:
        """Node, GPUs and service of a grant, and whether the service has to be restored there.
        Raises ValueError if the token holds nothing."""
        if token not in self._held:
            raise ValueError(f"token {token} holds nothing of {self._name}")
        return self._held[token]

    def restore_needed(self, amount: int, service: str) -> bool:
        """Whether a grant of `amount` made now would have to restore the service first. Raises
        ValueError if `amount` is more than `free`."""
        return self._pool.restore_needed(amount, service)

    def prepare_s(self, tag: str, amount: int, now: float) -> float:
        """Time to restore the service `tag`; 0 where the chunk that it would get has it."""
        if not tag or (amount <= self.free(now) and not self._pool.restore_needed(amount, tag)):
            return 0.0
        return self.restore_s(tag, amount)

    def prepare_after_s(self, tag: str, amount: int, token: int) -> float:
        """Nothing if the service stays on a part of the chunk beside what runs there."""
        holding = self._held.get(token)
        if tag and holding is not None and self._pool.resident_within(holding.chunk, amount, tag):
            return 0.0
        return self.restore_s(tag, amount)

    def preparing_s(self, token: int) -> float:
        holding = self._held.get(token)
        if holding is None or not holding.restore:
            return 0.0
        return self.restore_s(holding.service, holding.chunk.size)

    def restore_s(self, tag: str, amount: int) -> float:
        return _of_chunk(self._restores_s.get(tag), self.operator(0.0).occupied(amount), 0.0)

    def _room(self, service: str, size: int) -> float:
        return _of_chunk(self._rooms.get(service), size, 1.0)

    def _table(self, capacity: Capacity, name: str, most: float) -> Table:
        """Service -> GPUs -> a figure from 0 to `most`. Raises ValueError for another."""
        given = capacity.parameters.get(name, {})
        table = {service: dict(figures) for service, figures in given.items()}
        for service, figures in table.items():
            for amount, figure in figures.items():
                if amount < 1 or not 0 <= figure <= most:
                    raise ValueError(
                        f"{self._name}: {name} of {service} is 0 to {most:g} for at least 1 GPU, "
                        f"not {figure} for {amount}"
                    )
        return table

    def _shape(self, capacity: Capacity, per_node: int) -> tuple[int, int]:
        """Nodes and GPUs per node. A total of 0 needs no parameters: all nodes are gone."""
        parameters = capacity.parameters
        nodes = parameters.get("nodes", 0 if per_node and not capacity.total else None)
        wanted = parameters.get("per_node", per_node or None)
        if nodes is None or wanted is None:
            raise ValueError(f"{self._name} needs the parameters nodes and per_node")
        if not 0 <= nodes <= NODES_MAX or not 0 < wanted <= PER_NODE_MAX:
            raise ValueError(
                f"{self._name} has 0 to {NODES_MAX} nodes with 1 to {PER_NODE_MAX} GPUs, "
                f"not {nodes} with {wanted}"
            )
        if per_node and wanted != per_node:
            raise ValueError(f"{self._name} has nodes of {per_node} GPUs, and {wanted} are offered")
        if capacity.total != nodes * wanted:
            raise ValueError(
                f"{self._name} offers {capacity.total} GPUs, but {nodes} nodes with {wanted} each"
            )
        return nodes, wanted


def _of_chunk(figures: Mapping[int, float] | None, size: int, unknown: float) -> float:
    """The figure for the most GPUs, up to the size of the chunk, for which there is one."""
    if not figures:
        return unknown
    return figures[max((amount for amount in figures if amount <= size), default=min(figures))]
