"""The pump: events in order through the commit seam into the scheduler, decisions out to be executed.

The only caller of `Scheduler.handle`. Events that arrive while a batch is committed form the next
batch, so that a durable log commits many with one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from ..scheduler import Decision, Event, Scheduler, Tick
from .log import EventLog

log = logging.getLogger(__name__)


class Pump:
    """Feeds one scheduler."""

    def __init__(
        self,
        scheduler: Scheduler,
        event_log: EventLog,
        *,
        clock: Callable[[], float],
        execute: Callable[[Decision, float], None],
    ) -> None:
        """`execute` starts what a decision asks for and returns at once."""
        self._scheduler = scheduler
        self._log = event_log
        self._clock = clock
        self._execute = execute
        self._inbox: deque[tuple[Event, asyncio.Future[None]]] = deque()
        self._arrived = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="pump")

    async def aclose(self) -> None:
        """Stop. Events that were not handled yet are cancelled. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for _, handled in self._inbox:
            handled.cancel()
        self._inbox.clear()

    async def post(self, event: Event) -> None:
        """Queue an event; returns when it is committed and its decisions are under way."""
        handled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.append((event, handled))
        self._arrived.set()
        await handled

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch = list(self._inbox)
            self._inbox.clear()
            now = self._clock()
            try:
                await self._log.commit(now, [event for event, _ in batch])
            except Exception as error:  # nothing of it happened, and everybody is told
                log.exception("committing %d events failed", len(batch))
                for _, handled in batch:
                    handled.set_exception(error)
                continue
            for event, handled in batch:
                self._handle(event, handled, now)
            self._set_timer(now)

    def _handle(self, event: Event, handled: asyncio.Future[None], now: float) -> None:
        try:
            decisions = self._scheduler.handle(event, now)
        except Exception as error:  # one bad event must not stop all others
            log.exception("handling %r failed", event)
            if not handled.done():
                handled.set_exception(error)
            return
        self._log.decided(now, decisions)
        for decision in decisions:
            try:
                self._execute(decision, now)
            except Exception:  # nor one bad decision the rest
                log.exception("executing %r failed", decision)
        if not handled.done():
            handled.set_result(None)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakeup = self._scheduler.next_wakeup(now)
        if wakeup is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, wakeup - now), self._tick)

    def _tick(self) -> None:
        nobody_waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.append((Tick(), nobody_waits))
        self._arrived.set()
