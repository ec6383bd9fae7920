"""What lives on between the actions of a fake sandbox: sessions with folder and variables, background
processes, and the ports that these listen on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from ..base import Outcome, RunResult
from ..errors import PermanentError, SandboxClosed, SandboxDied

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as in a shell."""


@dataclass(slots=True)
class FakeSession:
    cwd: str
    env: dict[str, str]
    typed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """Lines that nobody has read yet."""
    command: asyncio.Task[int] | None = None
    interrupted: bool = False

    async def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Its exit code; ended by `interrupt`, the one of that. Raises what `work` raises."""
        self.typed = asyncio.Queue()
        self.interrupted = False
        self.command = asyncio.ensure_future(work)
        try:
            return await self.command
        except asyncio.CancelledError:
            if self.interrupted:
                return INTERRUPTED
            raise
        finally:
            self.command = None

    def interrupt(self) -> None:
        if self.command is not None:
            self.interrupted = True
            self.command.cancel()


@dataclass(slots=True)
class FakeBackground:
    """`gone` says why, once the sandbox is."""

    sessions: dict[str, FakeSession] = field(default_factory=dict)
    processes: dict[str, asyncio.Task[RunResult]] = field(default_factory=dict)
    ports: dict[int, asyncio.Event] = field(default_factory=dict)
    gone: Exception | None = None

    def busy(self, session: str) -> FakeSession:
        """That session, in which a command runs. Raises PermanentError."""
        found = self.sessions.get(session)
        if found is None or found.command is None:
            raise PermanentError(f"session {session!r}: nothing runs in it", field="session")
        return found

    async def run_process(self, process: str, work: Coroutine[Any, Any, RunResult]) -> RunResult:
        task = self.processes[process] = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            del self.processes[process]
        if self.gone is not None:
            raise self.gone
        if task.cancelled():
            return RunResult(Outcome.KILLED, exit_code=-9, signal=9)
        return task.result()

    def port(self, port: int) -> asyncio.Event:
        """Set while somebody listens on it."""
        return self.ports.setdefault(port, asyncio.Event())

    def end(self, error: SandboxDied | SandboxClosed) -> None:
        self.gone = error
        for task in self.processes.values():
            task.cancel()
