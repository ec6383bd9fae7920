"""Calls into a live sandbox that take no cores: its files, its sessions, its background commands.

A part of `CpuManager`, which knows the sandboxes; what the calls mean is `SandboxHost`'s to say.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..base import ExecSpec, FileInfo, OutputSink, RunResult
from ..tar_stream import TAR_END, from_tar, to_tar
from .held import HeldSandbox
from .sandbox.channel import Channel
from .sandbox.messages import AgentResult


class InsideCalls(ABC):
    """The part of `SandboxHost` that goes through a sandbox's channel."""

    @abstractmethod
    def _find(self, trajectory: str | None) -> HeldSandbox:
        """Raises SandboxClosed if it has no sandbox here."""

    async def read_file(
        self, trajectory: str, path: str, offset: int, limit: int
    ) -> AsyncIterator[tuple[bytes, int]]:
        with self._file_call(trajectory) as channel:
            async for chunk in channel.read_file(path, offset, limit):
                yield chunk

    async def write_file(
        self, trajectory: str, path: str, mode: int, chunks: AsyncIterator[bytes]
    ) -> int:
        with self._file_call(trajectory) as channel:
            return await channel.write_file(path, mode, chunks)

    async def list_files(self, trajectory: str, path: str) -> list[FileInfo]:
        with self._file_call(trajectory) as channel:
            return await channel.list_files(path)

    async def stat(self, trajectory: str, path: str) -> FileInfo:
        with self._file_call(trajectory) as channel:
            return await channel.stat(path)

    async def read_tree(self, trajectory: str, path: str) -> AsyncIterator[bytes]:
        with self._file_call(trajectory) as channel:
            async for pieces in channel.read_tree(path):
                yield b"".join(map(to_tar, pieces))
        yield TAR_END

    async def write_tree(
        self, trajectory: str, path: str, chunks: AsyncIterator[bytes]
    ) -> tuple[int, int]:
        with self._file_call(trajectory) as channel:
            return await channel.write_tree(path, from_tar(chunks))

    async def session_input(
        self,
        trajectory: str,
        session: str,
        data: bytes = b"",
        *,
        interrupt: bool = False,
        close: bool = False,
    ) -> None:
        channel = self._find(trajectory).live().channel
        await channel.session_input(session, data, interrupt=interrupt, close=close)

    async def run_process(
        self, trajectory: str, process: str, spec: ExecSpec, output: OutputSink
    ) -> RunResult:
        channel = self._find(trajectory).live().channel
        return as_result(
            await channel.exec(
                _process_name(process),
                0,
                replace(spec, merged=True),
                cores=None,
                affinity=None,
                timeout_s=None,
                output=output,
            )
        )

    async def end_process(self, trajectory: str, process: str, *, force: bool) -> None:
        channel = self._find(trajectory).live().channel
        if force:
            await channel.kill(_process_name(process))
        else:
            await channel.signal(_process_name(process), signal.SIGTERM)

    async def wait_port(self, trajectory: str, port: int, timeout_s: float) -> bool:
        return await self._find(trajectory).live().channel.wait_port(port, timeout_s)

    @contextmanager
    def _file_call(self, trajectory: str) -> Iterator[Channel]:
        with self._find(trajectory).file_call() as sandbox:
            yield sandbox.channel


def as_result(result: AgentResult) -> RunResult:
    return RunResult(
        result.outcome,
        exit_code=result.exit_code,
        signal=result.signal,
        run_s=result.run_s,
        cpu_seconds=result.cpu_seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        stdout_bytes=result.stdout_bytes,
        stderr_bytes=result.stderr_bytes,
    )


def _process_name(process: str) -> str:
    """What the agent calls it: no action's id has a slash."""
    return f"process/{process}"
