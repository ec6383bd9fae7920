"""The checker of GPUs: no two grants have one in common, by what the view says of each.

The other checkers add up units; that says nothing of which GPUs a grant is on.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ...core import Scheduler
from .booked import Violation, require
from .checkers import Book


class Chunk(Protocol):
    """Neighbouring GPUs of one node."""

    @property
    def node(self) -> int: ...

    @property
    def gpus(self) -> range: ...


class Holding(Protocol):
    @property
    def chunk(self) -> Chunk: ...


@runtime_checkable
class Chunked(Protocol):
    """A view that knows on which GPUs a grant is."""

    def held(self, token: int) -> Holding:
        """Raises ValueError if the token holds nothing."""
        ...


def check_chunks(scheduler: Scheduler, book: Book) -> None:
    """Raises Violation where two leases share a GPU, or one has too few or GPUs that are not there."""
    for resource, counter in book.counters.items():
        view = scheduler.view(resource)
        if not isinstance(view, Chunked):
            continue
        owners: dict[tuple[int, int], str] = {}
        shape = counter.capacity.parameters
        for name, job in book.jobs.items():
            amount = job.lease.amounts.get(resource, 0) if job.lease is not None else 0
            if job.lease is None or not amount:
                continue
            try:
                chunk = view.held(job.lease.token).chunk
            except ValueError as error:
                raise Violation("gpu", f"{name} was granted {amount} of {resource}") from error
            enough = len(chunk.gpus) >= amount
            require(enough, "gpu", name, "was granted", amount, "and has", chunk)
            there = chunk.node < shape["nodes"] and chunk.gpus.stop <= shape["per_node"]
            require(there, "gpu", name, "has", chunk, "and there are", shape)
            for gpu in chunk.gpus:
                other = owners.setdefault((chunk.node, gpu), name)
                require(other == name, "gpu", name, "has", chunk, ", of it", gpu, "has", other)
