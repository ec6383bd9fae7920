"""Work that many ask for and that is done once, for as long as anybody wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Work(Generic[T]):
    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.waiters = 0


class SharedWork(Generic[T]):
    """By key. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Work[T]] = {}

    def waiters(self, key: Hashable) -> int:
        """How many wait for it now; 0 if it is not under way."""
        return work.waiters if (work := self._running.get(key)) else 0

    async def join(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The outcome of the work under way for this key; where there is none, `start` begins it.

        Raises what the work raised. When the last of those who wait is cancelled, so is the work,
        which has ended on return.
        """
        work = self._running.get(key)
        if work is None:
            work = self._running[key] = _Work(asyncio.create_task(start()))
            work.task.add_done_callback(lambda task: self._forget(key, task))
        work.waiters += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiters -= 1
            if not work.waiters and not work.task.done():
                self._forget(key, work.task)
                work.task.cancel()
                await asyncio.wait([work.task])

    async def aclose(self) -> None:
        """Cancel all; on return none runs. Idempotent."""
        tasks = [work.task for work in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _forget(self, key: Hashable, task: asyncio.Task[T]) -> None:
        work = self._running.get(key)
        if work is not None and work.task is task:
            del self._running[key]
        if task.done() and not task.cancelled():
            task.exception()  # Told to those who wait; when nobody does any more, to nobody.
