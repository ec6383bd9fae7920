"""The client of a command: reaches its server at once, or says at once that it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..errors import Unavailable

if TYPE_CHECKING:
    from ..client import AsyncClient

FIRST_PATIENCE_S = 1.0
"""A trainer waits for a server that restarts; somebody at a terminal wants to know soon."""


@asynccontextmanager
async def connected(server: str, task: str = "default") -> AsyncIterator[AsyncClient]:
    """A client that has reached its server; from then on it is as patient as any other.

    Raises Unavailable, naming the address and what to start.
    """
    from ..client import AsyncClient

    async with AsyncClient(server, task=task) as client:
        connection = client.connection
        patience_s, connection.patience_s = connection.patience_s, FIRST_PATIENCE_S
        try:
            await client.status()
        except Unavailable:
            raise Unavailable(
                f"no server answers at {client.server}: start one with `tangram serve`, or name"
                " another with --server HOST:PORT"
            ) from None
        connection.patience_s = patience_s
        yield client
