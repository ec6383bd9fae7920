"""Calls to a sandbox's agent: one `Channel` per sandbox, its calls as coroutines.

Nothing here knows launchers, cgroups or leases. How the agent gets in is `listener`'s, the form of the
messages `messages`', what the agent does with them its own (`agent/`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from typing import Any

from ...base import ExecSpec, FileInfo, OutputSink, Stream
from ...errors import FileProblem, PermanentError, SandboxClosed, SandboxDied
from ...tar_stream import Piece
from .agent import wire
from .messages import (
    AgentResult,
    as_bytes,
    as_text,
    exec_fields,
    file_info,
    frame_of,
    piece_fields,
    piece_of,
    result_of,
    sentence_of,
)
from .protocol import AgentProtocol

TRANSFERS = 16
"""File reads and writes of one sandbox at once; more wait. The agent itself allows 64."""
CLOSE_S = 1.0
"""How long closing waits for what was written to be sent: an agent may have stopped reading."""
TAKEN_DELAY_S = 0.05
"""How long the news that a result was taken may wait for a request to go with: alone it would wake
the agent for nothing that anybody waits for."""


class _Run:
    """A command that has no result yet."""

    def __init__(self, token: int, output: OutputSink) -> None:
        self.token = token
        self.output = output
        self.ended = False
        """The agent has given its result, and keeps it until it is told that it was taken."""
        self.done: asyncio.Future[AgentResult] = asyncio.get_running_loop().create_future()


class Channel:
    """Calls to one agent. All of them raise SandboxDied once the agent is gone, and SandboxClosed
    after `aclose`; all may be called concurrently, from the loop that accepted it."""

    lost: asyncio.Future[str]
    """Set once, with a message, when the connection ends before `aclose`."""

    def __init__(self, protocol: AgentProtocol) -> None:
        loop = asyncio.get_running_loop()
        self.lost = loop.create_future()
        self._closed = False
        self._gone = loop.create_future()
        self._hello: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        self._runs: dict[str, _Run] = {}
        self._replies: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._numbers = count(1)
        self._taken = b""
        self._taken_timer: asyncio.TimerHandle | None = None
        self._transfers = asyncio.Semaphore(TRANSFERS)
        self._protocol = protocol
        protocol.bind(self._on_message, self._on_lost)

    async def greeted(self) -> None:
        """Wait for the agent's first message. Raises PermanentError for another protocol."""
        hello = await self._hello
        major, minor = hello["protocol"]
        if major != wire.PROTOCOL[0] or abs(minor - wire.PROTOCOL[1]) > 1:
            raise PermanentError(
                f"the sandbox's agent speaks protocol {major}.{minor}, this server"
                f" {wire.PROTOCOL[0]}.{wire.PROTOCOL[1]}: they must be one minor version apart"
            )

    async def configure(
        self, *, env: Mapping[str, str], workdir: str, shell: tuple[str, ...], user: str
    ) -> None:
        """What commands get that do not say otherwise. An empty shell is `bash -c` where bash is,
        else `sh -c`; an empty user is who the agent runs as. Raises PermanentError for a user
        that the sandbox does not have."""
        try:
            await self._call(
                "config",
                env={name: as_bytes(value) for name, value in env.items()},
                workdir=as_bytes(workdir),
                shell=[as_bytes(word) for word in shell],
                user=as_bytes(user),
            )
        except FileProblem as problem:
            raise PermanentError(str(problem).partition(": ")[2]) from problem

    async def exec(
        self,
        action: str,
        token: int,
        spec: ExecSpec,
        *,
        cores: tuple[int, ...] | None,
        affinity: tuple[int, ...] | None,
        timeout_s: float | None,
        output: OutputSink,
        sweeps: Callable[[AgentResult], bool] = lambda result: False,
    ) -> AgentResult:
        """Run a command to its end; its output goes to `output` as it comes. `cores` are told to
        the command, `affinity` binds it (None: all that its sandbox may use). What it left running
        stays, unless `sweeps` says of its result that it is to be killed first. When cancelled,
        the command is killed. Raises PermanentError if it cannot be run at all: no such user or
        cwd, a request above 4 MiB."""
        message = frame_of(
            "exec", exec_fields(action, token, spec, cores, affinity, timeout_s), "the command"
        )
        self._check()
        if action in self._runs:
            raise PermanentError(f"the action {action} runs in this sandbox already")
        run = self._runs[action] = _Run(token, output)
        self._write(message)
        try:
            result = await run.done
            if result.survivors and sweeps(result):
                await self._call("sweep", action=action, token=token)
            return result
        except asyncio.CancelledError:
            self._tell("kill", action=action)
            raise
        finally:
            del self._runs[action]
            if run.ended:
                self._tell_taken(action, token)

    async def kill(self, action: str) -> None:
        """Kill the command with all that descends from it: its `exec` returns soon, KILLED. No
        effect if it is not running."""
        self._check()
        self._tell("kill", action=action)

    async def signal(self, action: str, number: int) -> None:
        """Send a command and its process group a signal. No effect if it is not running."""
        self._check()
        self._tell("signal", action=action, signal=int(number))

    async def session_input(
        self, session: str, data: bytes = b"", *, interrupt: bool = False, close: bool = False
    ) -> None:
        """Type to what runs in a session, press Ctrl-C, or end the session with all that runs below
        its shell; ending one that is none is no error. Raises PermanentError where nothing runs, or
        too much was typed that nobody reads."""
        try:
            await self._call("input", session=session, data=data, interrupt=interrupt, close=close)
        except FileProblem as problem:
            message = f"session {session!r}: {sentence_of(problem)}"
            raise PermanentError(message, field="session") from problem

    async def wait_port(self, port: int, timeout_s: float) -> bool:
        """Whether a program inside listens on a port of loopback, or does in time. Raises
        PermanentError where too many wait already."""
        number = next(self._numbers)
        try:
            reply = await self._call("port", number, port=port, timeout_s=timeout_s)
        except FileProblem as problem:
            raise PermanentError(sentence_of(problem), field="port") from problem
        except asyncio.CancelledError:
            self._tell("port_abort", id=number)
            raise
        return bool(reply["open"])

    async def read_file(
        self, path: str, offset: int = 0, limit: int = 0
    ) -> AsyncIterator[tuple[bytes, int]]:
        """Chunks of at most 1 MiB, each with the file's whole size; one empty chunk for an empty
        file. `limit` 0 reads to the end. Regular files only. Raises FileProblem."""
        async with self._transfers:
            number = next(self._numbers)
            last = False
            request = {"path": as_bytes(path), "offset": offset, "limit": limit}
            try:
                reply = await self._call("read", number, **request)
                while True:
                    last = reply["last"]
                    if reply["data"] or "offset" in request:
                        yield reply["data"], reply["size"]
                    if last:
                        return
                    request = {"path": as_bytes(path)}
                    reply = await self._call("more", number)
            finally:
                if not last:
                    self._tell("abort", id=number)

    async def write_file(self, path: str, mode: int, chunks: AsyncIterator[bytes]) -> int:
        """Write a whole file: readers see the old or the new one. Missing folders are made; a
        symlink is replaced, not followed. Returns its size. Raises FileProblem; then, or when
        cancelled, or when `chunks` raises, the old file stands."""
        async with self._transfers:
            number = next(self._numbers)
            request: dict[str, Any] = {"path": as_bytes(path), "mode": mode}
            kind, data, complete = "write", b"", False
            try:
                # One chunk is held back, so that the last one can say that it is the last.
                async for chunk in chunks:
                    for start in range(0, len(chunk), wire.CHUNK):
                        if data:
                            await self._call(kind, number, data=data, last=False, **request)
                            kind, request = "chunk", {}
                        data = chunk[start : start + wire.CHUNK]
                reply = await self._call(kind, number, data=data, last=True, **request)
                complete = True
                return int(reply["size"])
            except FileProblem as problem:
                raise _of_path(problem, path) from problem
            finally:
                if not complete:
                    self._tell("abort", id=number)

    async def read_tree(self, path: str) -> AsyncIterator[list[Piece]]:
        """Everything below a folder, in portions of about 1 MiB. Raises FileProblem."""
        async with self._transfers:
            number, last = next(self._numbers), False
            try:
                reply = await self._call("read-tree", number, path=as_bytes(path))
                while True:
                    last = reply["last"]
                    yield [piece_of(fields) for fields in reply["pieces"]]
                    if last:
                        return
                    reply = await self._call("more", number)
            except FileProblem as problem:
                raise _of_path(problem, path) from problem
            finally:
                if not last:
                    self._tell("abort", id=number)

    async def write_tree(self, path: str, portions: AsyncIterator[list[Piece]]) -> tuple[int, int]:
        """Write entries below a folder, which is made if missing; each file appears when it is
        whole. Returns how many files and bytes. Raises FileProblem; what was written stays then."""
        async with self._transfers:
            number, complete = next(self._numbers), False
            try:
                request = {"pieces": [], "last": False}
                await self._call("write-tree", number, path=as_bytes(path), **request)
                async for portion in portions:
                    fields = [piece_fields(piece) for piece in portion]
                    await self._call("pieces", number, pieces=fields, last=False)
                reply = await self._call("pieces", number, pieces=[], last=True)
                complete = True
                return reply["files"], reply["size"]
            except FileProblem as problem:
                raise _of_path(problem, path) from problem
            finally:
                if not complete:
                    self._tell("abort", id=number)

    async def list_files(self, path: str) -> list[FileInfo]:
        """The entries of a folder, sorted by name; at most 10,000. Raises FileProblem."""
        reply = await self._call("list", path=as_bytes(path))
        return [file_info(entry) for entry in reply["entries"]]

    async def stat(self, path: str) -> FileInfo:
        """Of the path itself: a symlink is not followed. Raises FileProblem."""
        return file_info(await self._call("stat", path=as_bytes(path)))

    async def aclose(self) -> None:
        """Hang up. The agent goes on and waits for a server. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._taken:
                self._write()
            self._protocol.transport.close()
            self._fail_all(SandboxClosed("the sandbox was closed"))
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(self._gone)
        except TimeoutError:
            self._protocol.transport.abort()
            await asyncio.shield(self._gone)

    def _check(self) -> None:
        if self._closed:
            raise SandboxClosed("the sandbox was closed")
        if self.lost.done():
            raise SandboxDied(self.lost.result())

    async def _call(self, kind: str, number: int | None = None, **fields: Any) -> Mapping[str, Any]:
        """Send a request and wait for its reply. Raises FileProblem for what was refused."""
        self._check()
        await self._protocol.writable.wait()
        self._check()
        number = next(self._numbers) if number is None else number
        reply: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        message = frame_of(kind, {"id": number, **fields}, "the request")
        self._replies[number] = reply
        self._write(message)
        try:
            return await reply
        finally:
            self._replies.pop(number, None)

    def _tell(self, kind: str, **fields: Any) -> None:
        """Send what has no answer; nobody to tell is fine."""
        if not self._closed and not self.lost.done():
            self._write(wire.request(kind, fields))

    def _write(self, message: bytes = b"") -> None:
        """Send it, and what waited to go with it; nowhere, if the agent has just gone."""
        if not self._protocol.transport.is_closing():
            self._protocol.transport.write(self._taken + message)
        self._taken = b""
        if self._taken_timer is not None:
            self._taken_timer.cancel()
            self._taken_timer = None

    def _tell_taken(self, action: str, token: int) -> None:
        """With the next request, or alone after a while."""
        if self._closed or self.lost.done():
            return
        self._taken += wire.request("taken", {"action": action, "token": token})
        if self._taken_timer is None:
            loop = asyncio.get_running_loop()
            self._taken_timer = loop.call_later(TAKEN_DELAY_S, self._write)

    def _on_message(self, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "output":
            run = self._runs.get(fields["action"])
            if run is not None:
                run.output.write(Stream(fields["stream"]), fields["offset"], fields["data"])
        elif kind == "result":
            self._on_result(fields)
        elif kind in ("reply", "failed"):
            reply = self._replies.get(fields["id"])
            if reply is None or reply.done():
                return
            if kind == "reply":
                reply.set_result(fields)
            else:
                reply.set_exception(
                    FileProblem(fields["code"], as_text(fields["path"]), fields["message"])
                )
        elif kind == "refused":
            run = self._runs.get(fields["action"])
            if run is not None and run.token == fields["token"] and not run.done.done():
                run.done.set_exception(PermanentError(fields["message"]))
        elif kind == "hello" and not self._hello.done():
            self._hello.set_result(fields)

    def _on_result(self, fields: Mapping[str, Any]) -> None:
        run = self._runs.get(fields["action"])
        if run is not None and run.token == fields["token"] and not run.done.done():
            run.ended = True
            run.done.set_result(result_of(fields))
        else:  # Nobody waits for it any more: taken as well, so that the agent forgets it.
            self._tell_taken(fields["action"], fields["token"])

    def _on_lost(self, problem: str) -> None:
        if self._taken_timer is not None:
            self._taken_timer.cancel()
        if not self._gone.done():
            self._gone.set_result(None)
        if self._closed or self.lost.done():
            return
        self.lost.set_result(problem)
        self._fail_all(SandboxDied(problem))

    def _fail_all(self, error: Exception) -> None:
        waiting: list[asyncio.Future[Any]] = [run.done for run in self._runs.values()]
        for future in [*waiting, *self._replies.values(), self._hello]:
            if not future.done():
                future.set_exception(error)
        with contextlib.suppress(asyncio.CancelledError):
            self._hello.exception()  # Nobody need be waiting for it.


def _of_path(problem: FileProblem, path: str) -> FileProblem:
    """Answers to later requests of a transfer name no path."""
    return FileProblem(problem.code, path, sentence_of(problem))
