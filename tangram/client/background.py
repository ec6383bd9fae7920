"""The event loop on which the blocking client runs: one daemon thread per process, made at first use.

A forked child makes its own. No client, request or answer is known here.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

CLEAN_UP_S = 10.0
"""How long Ctrl-C waits for a call to cancel its action at the server before it goes on."""
STOP_S = 5.0


class BackgroundLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = _new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="tangram-client", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it on the loop. Cancelling the future cancels the coroutine, which may clean up."""
        return self._start(work)[0]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it on the loop and wait. On Ctrl-C cancel it, let it clean up, and go on."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a blocking client's method was called on its own event loop (from on_output?), "
                "where it would wait for itself: hand the work to another thread"
            )
        future, ended = self._start(work)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait(CLEAN_UP_S)
            raise

    def stop(self) -> None:
        """End the thread; what still runs on it is cancelled and cleans up."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_S)

    def _start(self, work: Coroutine[Any, Any, T]) -> tuple[Future[T], threading.Event]:
        future: Future[T] = Future()
        ended = threading.Event()

        def start() -> None:
            if not future.cancelled():
                task = self.loop.create_task(work)
                tasks.append(task)
                task.add_done_callback(lambda task: _settle(task, future, ended))
                future.add_done_callback(cancel)
            else:
                work.close()
                future.set_running_or_notify_cancel()
                ended.set()

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                self.loop.call_soon_threadsafe(tasks[0].cancel)

        tasks: list[asyncio.Task[T]] = []
        self.loop.call_soon_threadsafe(start)
        return future, ended

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=STOP_S))
        self.loop.close()


def _settle(task: asyncio.Task[T], future: Future[T], ended: threading.Event) -> None:
    ended.set()
    if task.cancelled():
        future.cancel()
    error = None if task.cancelled() else task.exception()
    # Whoever waits for a cancelled future with `wait` or `as_completed` is told here alone.
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: a call's way through the thread is shorter."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


_lock = threading.Lock()
_current: BackgroundLoop | None = None


def background() -> BackgroundLoop:
    """This process's loop."""
    global _current
    current = _current
    if current is not None:
        return current
    with _lock:
        if _current is None:
            _current = BackgroundLoop()
        return _current


def _forget() -> None:
    """In a forked child: the thread is the parent's, the lock may be held by one of its threads."""
    global _lock, _current
    _lock = threading.Lock()
    _current = None


def _stop_at_exit() -> None:
    if _current is not None:
        _current.stop()


atexit.register(_stop_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run it on this process's loop and wait, as `BackgroundLoop.run`."""
    return background().run(work)


def each(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """Its items (never None), waited for one by one. Who stops reading ends it."""

    async def take() -> T | None:
        return await anext(items, None)

    try:
        while (item := wait(take())) is not None:
            yield item
    finally:
        wait(items.aclose())
