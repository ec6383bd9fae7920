"""The pump: events in order through the commit seam into the scheduler, decisions out to be executed.

The only caller of `Scheduler.handle`. With a log that never waits an event is handled by whoever posts
it, at once. With one that does, events that arrive while a batch is committed form the next batch, so
that a durable log commits many with one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

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
        self._timer_at: float | None = None
        self._tick: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._log.waits:
            self._task = asyncio.create_task(self._run(), name="pump")

    async def aclose(self) -> None:
        """Stop. Events that were not handled yet are cancelled. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._tick, self._task):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        for _, handled in self._inbox:
            handled.cancel()
        self._inbox.clear()

    async def post(self, event: Event) -> None:
        """Have an event handled; returns when it is committed and its decisions are under way.
        Raises what the log or the scheduler raised: nothing of it happened then."""
        if self._log.waits:
            handled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._inbox.append((event, handled))
            self._arrived.set()
            await handled
            return
        now = self._clock()
        await self._commit(now, (event,))
        self._handle(event, now)
        self._set_timer(now)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch = list(self._inbox)
            self._inbox.clear()
            now = self._clock()
            try:
                await self._commit(now, [event for event, _ in batch])
            except Exception as error:  # noqa: BLE001 - it is logged, and everybody is told
                for _, handled in batch:
                    _settle(handled, error)
                continue
            for event, handled in batch:
                try:
                    self._handle(event, now)
                except Exception as error:  # noqa: BLE001 - one bad event must not stop others
                    _settle(handled, error)
                else:
                    _settle(handled)
            self._set_timer(now)

    async def _commit(self, now: float, events: Sequence[Event]) -> None:
        try:
            await self._log.commit(now, events)
        except Exception:
            log.exception("committing %d events failed", len(events))
            raise

    def _handle(self, event: Event, now: float) -> None:
        try:
            decisions = self._scheduler.handle(event, now)
        except Exception:
            log.exception("handling %r failed", event)
            raise
        if decisions:
            self._log.decided(now, decisions)
        for decision in decisions:
            try:
                self._execute(decision, now)
            except Exception:  # one bad decision must not stop the rest
                log.exception("executing %r failed", decision)

    def _set_timer(self, now: float) -> None:
        wakeup = self._scheduler.next_wakeup(now)
        if wakeup == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = wakeup
        if wakeup is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, wakeup - now), self._post_tick)

    def _post_tick(self) -> None:
        self._timer_at = None
        self._tick = asyncio.create_task(self.post(Tick()), name="tick")


def _settle(handled: asyncio.Future[None], error: Exception | None = None) -> None:
    """Unless whoever posted has gone."""
    if handled.done():
        return
    if error is not None:
        handled.set_exception(error)
    else:
        handled.set_result(None)
