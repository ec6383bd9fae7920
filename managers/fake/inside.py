"""Calls into a fake sandbox that take no cores: its files, its sessions, its background commands.

A part of `FakeManager`, which knows the sandboxes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..base import ExecSpec, FileInfo, Lease, Outcome, OutputSink, RunResult, SandboxSpec
from ..errors import FileProblem
from ..tar_stream import TAR_END, from_tar, to_tar
from .commands import Died, Run, execute
from .files import FakeFiles
from .sessions import FakeBackground

WORKDIR = "/workspace"
CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class FakeSandbox:
    spec: SandboxSpec
    on_lost: Callable[[str], None]
    files: FakeFiles = field(default_factory=lambda: FakeFiles(WORKDIR))
    processes: list[str] = field(default_factory=list)
    background: FakeBackground = field(default_factory=FakeBackground)
    ready: bool = False
    lost: str = ""


class FakeInside(ABC):
    """The part of `SandboxHost` that reaches into a sandbox."""

    @abstractmethod
    async def _enter(self, call: Literal["file", "session"], subject: str) -> None:
        """A call begins: tests may hold it or have it fail."""

    @abstractmethod
    def _usable(self, trajectory: str | None) -> FakeSandbox:
        """Raises SandboxClosed, SandboxDied."""

    @abstractmethod
    def _prepare(
        self, spec: ExecSpec, sandbox: FakeSandbox, output: OutputSink, lease: Lease | None
    ) -> Run:
        """All that a command may see."""

    async def read_file(
        self, trajectory: str, path: str, offset: int, limit: int
    ) -> AsyncIterator[tuple[bytes, int]]:
        sandbox = await self._file_call(trajectory)
        data = sandbox.files.read(path)
        wanted = data[offset : offset + limit if limit else None]
        for start in range(0, max(1, len(wanted)), CHUNK_BYTES):
            yield wanted[start : start + CHUNK_BYTES], len(data)

    async def write_file(
        self, trajectory: str, path: str, mode: int, chunks: AsyncIterator[bytes]
    ) -> int:
        sandbox = await self._file_call(trajectory)
        data = b"".join([chunk async for chunk in chunks])
        disk_bytes = sandbox.spec.disk_bytes
        if disk_bytes is not None and sandbox.files.used_bytes() + len(data) > disk_bytes:
            raise FileProblem("ENOSPC", path, "no space left")
        sandbox.files.write(path, data, mode)
        return len(data)

    async def read_tree(self, trajectory: str, path: str) -> AsyncIterator[bytes]:
        sandbox = await self._file_call(trajectory)
        for piece in sandbox.files.tree(path):
            yield to_tar(piece)
        yield TAR_END

    async def write_tree(
        self, trajectory: str, path: str, chunks: AsyncIterator[bytes]
    ) -> tuple[int, int]:
        sandbox = await self._file_call(trajectory)
        written = sandbox.files.make_tree(path)
        async for portion in from_tar(chunks):
            for piece in portion:
                written.place(piece)
        return written.files, written.size

    async def list_files(self, trajectory: str, path: str) -> list[FileInfo]:
        return (await self._file_call(trajectory)).files.list(path)

    async def stat(self, trajectory: str, path: str) -> FileInfo:
        return (await self._file_call(trajectory)).files.stat(path)

    async def session_input(
        self,
        trajectory: str,
        session: str,
        data: bytes = b"",
        *,
        interrupt: bool = False,
        close: bool = False,
    ) -> None:
        await self._enter("session", trajectory)
        background = self._usable(trajectory).background
        if close:
            if (ended := background.sessions.pop(session, None)) is not None:
                ended.interrupt()
        elif interrupt:
            background.busy(session).interrupt()
        else:
            typed = background.busy(session).typed
            for line in data.decode().splitlines():
                typed.put_nowait(line)

    async def run_process(
        self, trajectory: str, process: str, spec: ExecSpec, output: OutputSink
    ) -> RunResult:
        sandbox = self._usable(trajectory)
        run = self._prepare(spec, sandbox, output, None)
        run.stderr = run.stdout
        try:
            result = await sandbox.background.run_process(process, finish(execute(run), None))
        finally:
            run.stdout.finish()
        return replace(result, stdout_bytes=run.stdout.produced)

    async def end_process(self, trajectory: str, process: str, *, force: bool) -> None:
        """Its commands know no difference between the two."""
        if task := self._usable(trajectory).background.processes.get(process):
            task.cancel()

    async def wait_port(self, trajectory: str, port: int, timeout_s: float) -> bool:
        listening = self._usable(trajectory).background.port(port)
        try:
            async with asyncio.timeout(timeout_s):
                await listening.wait()
        except TimeoutError:
            return listening.is_set()
        return True

    async def _file_call(self, trajectory: str) -> FakeSandbox:
        await self._enter("file", trajectory)
        return self._usable(trajectory)


async def finish(command: Coroutine[Any, Any, int], timeout_s: float | None) -> RunResult:
    try:
        async with asyncio.timeout(timeout_s):
            return RunResult(Outcome.FINISHED, exit_code=await command)
    except TimeoutError:
        return RunResult(Outcome.TIMED_OUT, exit_code=-9, signal=9)
    except Died as death:
        return RunResult(death.outcome, exit_code=-death.signal, signal=death.signal)
