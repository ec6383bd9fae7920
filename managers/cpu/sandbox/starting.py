"""What launchers share while a sandbox starts and is handed over: waiting for work in threads and for
an agent that may never come, and the memory limit that comes with its trajectory.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections.abc import Coroutine
from typing import Any, TypeVar

from ...errors import PermanentError, SandboxDied, TemporaryError
from ...sizes import format_size
from ..cgroup import SandboxCgroup
from .channel import Channel
from .listener import AgentListener

AGENT_WAIT_S = 15.0
"""From the start of the agent to its first message: milliseconds, but seconds in a start storm."""

OPEN_FILES = 1024
"""Of one process, which may raise it by itself up to the server's own limit: what programs expect, some
of which go through all numbers, whatever the server has set for itself."""

_T = TypeVar("_T")


async def finished(work: Coroutine[Any, Any, _T]) -> _T:
    """Wait for a thread's work to end even when cancelled meanwhile: a thread cannot be stopped,
    and what it makes must not appear after everything was undone."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def limit_open_files(pid: int) -> None:
    """Of a process that was started here, and of all that it starts. Raises ProcessLookupError."""
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, most))


def limit_memory(cgroup: SandboxCgroup, memory_bytes: int) -> None:
    """Raises SandboxDied if its group is gone, PermanentError if it holds more by itself."""
    try:
        cgroup.set_memory(memory_bytes)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            raise SandboxDied(f"the sandbox's control group is gone: {error}") from error
        if error.errno == errno.EBUSY:
            raise PermanentError(
                f"memory: {format_size(memory_bytes)} is less than an empty sandbox takes: ask for more",
                field="memory",
            ) from error
        raise TemporaryError(f"the sandbox's memory cannot be limited: {error}") from error


async def greet(listener: AgentListener, agent: int, pidfd: int) -> Channel:
    """The channel to the agent with this pid. `pidfd` is of the process without which it cannot
    come; it is closed here. Raises TemporaryError if that ends, or time passes, first."""
    accepting = asyncio.ensure_future(listener.accept(agent, AGENT_WAIT_S))
    ended = asyncio.ensure_future(_readable(pidfd))
    try:
        await asyncio.wait({accepting, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not accepting.done():
            raise TemporaryError("the sandbox ended before its agent answered")
        return accepting.result()
    except TimeoutError as error:
        message = f"the sandbox's agent did not answer within {AGENT_WAIT_S:g} s"
        raise TemporaryError(message) from error
    except SandboxDied as error:
        raise TemporaryError(str(error)) from error
    finally:
        for task in (accepting, ended):
            task.cancel()
        await asyncio.gather(accepting, ended, return_exceptions=True)


async def _readable(fd: int) -> None:
    """Wait until a descriptor turns readable, and close it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def notice() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, notice)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
        os.close(fd)
