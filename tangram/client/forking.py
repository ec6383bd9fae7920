"""What makes a client usable in both processes after a fork.

gRPC's threads do not exist in a forked child, and a gRPC that was in use at the fork hangs there.
So all channels of this process are closed right before it, which ends those threads; both sides
then open new ones at their next use, and calls in flight in the parent ask again with the same id.

A fork in the middle of a coroutine, on an event loop that has calls in flight itself, cannot wait
for them: the parent goes on, the child must not use the client. Starting programs (subprocess)
does not come here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

SETTLE_S = 2.0
"""How long a fork waits until other threads' loops have let go; a stuck loop must not stop it."""
THREADS_END_S = 0.5
"""How long a fork waits for the end of gRPC's threads, a millisecond as a rule; another user of
gRPC in this process keeps them for ever."""
THREADS_END_UNSEEN_S = 0.05
"""The same where threads cannot be listed."""
POLL_S = 0.002
TASKS = Path("/proc/self/task")
GRPC_THREADS = ("event_engine", "grpc_", "lifeguard", "default-execut", "resolver-execut")
"""How the names of gRPC's threads begin."""


class _Channel(Protocol):
    calls: int

    async def aclose(self) -> None: ...


class _Connection(Protocol):
    def channels(self) -> Mapping[asyncio.AbstractEventLoop, _Channel]: ...
    def forget(self) -> None: ...


_connections: WeakSet[_Connection] = WeakSet()
_in_progress = False


def register(connection: _Connection) -> None:
    """Close its channels before every fork from now on."""
    _connections.add(connection)


async def passed() -> None:
    """Return when no fork is under way: what is opened now is this process's alone."""
    while _in_progress:  # noqa: ASYNC110 - an Event belongs to one loop, forks to all of them
        await asyncio.sleep(POLL_S)


def _before() -> None:
    global _in_progress
    _in_progress = True
    closed = 0
    for connection in list(_connections):
        channels = connection.channels()
        connection.forget()
        for loop, channel in channels.items():
            _close(loop, channel)
            closed += 1
    if closed:
        _await_end_of_grpc()


def _close(loop: asyncio.AbstractEventLoop, channel: _Channel) -> None:
    if loop.is_closed():
        return
    if not loop.is_running() or loop is asyncio._get_running_loop():
        # Closing suspends nowhere: one step runs it to its end.
        with suppress(StopIteration):
            channel.aclose().__await__().send(None)
        return
    closing = asyncio.run_coroutine_threadsafe(_close_and_settle(channel), loop)
    with suppress(FutureTimeout):
        closing.result(SETTLE_S)


async def _close_and_settle(channel: _Channel) -> None:
    await channel.aclose()
    give_up_at = time.monotonic() + SETTLE_S
    while channel.calls and time.monotonic() < give_up_at:  # noqa: ASYNC110 - rare, milliseconds
        await asyncio.sleep(POLL_S)


def _await_end_of_grpc() -> None:
    """With its last channel gRPC ends its threads, but does not wait for them."""
    if not TASKS.is_dir():
        time.sleep(THREADS_END_UNSEEN_S)
        return
    give_up_at = time.monotonic() + THREADS_END_S
    while _grpc_threads() and time.monotonic() < give_up_at:
        time.sleep(POLL_S)


def _grpc_threads() -> int:
    found = 0
    for task in TASKS.iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found += (task / "comm").read_text().startswith(GRPC_THREADS)
    return found


def _after_in_parent() -> None:
    global _in_progress
    _in_progress = False


def _after_in_child() -> None:
    global _in_progress
    _in_progress = False
    for connection in list(_connections):
        connection.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
