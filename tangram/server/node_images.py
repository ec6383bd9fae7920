"""The images of all nodes: asked of the managers that bring some, outside of any action.

Neither images nor pulls are the scheduler's: a trajectory whose image comes is one that starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ..managers.base import ImageHost, ImageInfo, Manager
from ..managers.errors import ManagerError
from .failures import from_manager


class NodeImages:
    """Stateless: all it knows is the managers."""

    def __init__(self, managers: Sequence[Manager]) -> None:
        self._hosts = [(m.node, m) for m in managers if isinstance(m, ImageHost)]

    async def images(self) -> list[tuple[str, ImageInfo]]:
        """What is there and what is coming, with the node's name. Raises TangramError."""
        return await self._ask(lambda host: host.images())

    async def prefetch(self, task: str, names: Sequence[str]) -> list[tuple[str, ImageInfo]]:
        """Begin to bring images to every node that can; how they stand. Raises TangramError."""
        return await self._ask(lambda host: host.prefetch(task, names))

    async def _ask(
        self, ask: Callable[[ImageHost], Awaitable[list[ImageInfo]]]
    ) -> list[tuple[str, ImageInfo]]:
        found: list[tuple[str, ImageInfo]] = []
        for node, host in self._hosts:
            try:
                found += [(node, info) for info in await ask(host)]
            except ManagerError as error:
                raise from_manager(error) from error
        return found
