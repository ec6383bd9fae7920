"""The server's end of an agent's socket: one `Channel` per sandbox, its calls as coroutines.

The agent connects from inside, so `AgentListener` waits for it, compares the peer's pid with that of
the process that was started, and stops listening. Nothing here knows launchers, cgroups or leases.
Messages and their codec are the agent's own (`agent.py`). Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

from ...base import ExecSpec, FileInfo, Outcome, OutputSink, Stream
from ...errors import FileProblem, PermanentError, SandboxClosed, SandboxDied
from . import agent as wire

MAX_SOCKET_PATH_BYTES = 100
"""Of a listener's path: the kernel's limit is 108, and the path inside must fit as well."""
BACKLOG = 8
"""Connections that may wait: the agent, and a few impostors that are turned away."""
TRANSFERS = 16
"""File reads and writes of one sandbox at once; more wait. The agent itself allows 64."""
CLOSE_S = 1.0
"""How long closing waits for what was written to be sent: an agent may have stopped reading."""
CORES_PLACEHOLDER = "{cores}"


@dataclass(frozen=True, slots=True)
class AgentResult:
    """How a command ended, as its agent measured it."""

    outcome: Outcome
    """FINISHED, TIMED_OUT or KILLED: the agent knows no other."""
    exit_code: int
    """-N on signal N."""
    signal: int | None
    run_s: float
    """From spawn to exit."""
    cpu_seconds: float
    peak_memory_bytes: int
    """The largest resident process of the command."""
    stdout_bytes: int
    """Produced, kept or not."""
    stderr_bytes: int
    survivors: int
    """Processes that the command left behind."""
    sandbox_reset: bool
    """Every process of the sandbox had to be killed to end this or another command."""


class AgentListener:
    """Waits for one agent on a unix socket in a folder that only its sandbox sees (read-only)."""

    def __init__(self, path: Path) -> None:
        """Bind and listen. Raises PermanentError if the path is too long for a unix socket."""
        if len(os.fsencode(path)) >= MAX_SOCKET_PATH_BYTES:
            raise PermanentError(
                f"the socket path {path} is too long: it must be shorter than"
                f" {MAX_SOCKET_PATH_BYTES} bytes, so choose a shorter runtime folder"
            )
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(os.fspath(path))
            # The sandbox's user is another one: who may connect is decided by the folder's mode,
            # and by the peer check.
            path.chmod(0o666)
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            raise

    async def accept(
        self, expected_pid: Callable[[], Awaitable[int]] | int | None, timeout_s: float
    ) -> Channel:
        """The channel to the agent with that pid (None: to whoever connects first). Others are
        turned away. Afterwards nobody can connect any more. Raises TimeoutError, PermanentError if
        the agent's protocol is another one, SandboxDied if it ended before its first message."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            while True:
                connection, _ = await loop.sock_accept(self._socket)
                try:
                    if await _is_expected(connection, expected_pid):
                        break
                except BaseException:
                    connection.close()
                    raise
                connection.close()
            self.close()
            _, protocol = await loop.connect_accepted_socket(_AgentProtocol, connection)
            channel = Channel(protocol)
            try:
                await channel.greeted()
            except BaseException:
                await channel.aclose()
                raise
            return channel

    def close(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        self.path.unlink(missing_ok=True)


async def _is_expected(
    connection: socket.socket, expected_pid: Callable[[], Awaitable[int]] | int | None
) -> bool:
    if expected_pid is None:
        return True
    expected = expected_pid if isinstance(expected_pid, int) else await expected_pid()
    credentials = struct.Struct("3i")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    return int(credentials.unpack(peer)[0]) == expected


class _AgentProtocol(asyncio.Protocol):
    """Bytes to messages, and whether more may be written."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.on_message: Callable[[str, Mapping[str, Any]], None] | None = None
        self.on_lost: Callable[[str], None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self._reader = wire.FrameReader()
        self._early: list[tuple[str, dict[str, Any]]] = []
        self._problem = ""
        self._lost = False

    def bind(
        self, on_message: Callable[[str, Mapping[str, Any]], None], on_lost: Callable[[str], None]
    ) -> None:
        """Hand over what came already, then everything as it comes."""
        self.on_message, self.on_lost = on_message, on_lost
        early, self._early = self._early, []
        for kind, fields in early:
            on_message(kind, fields)
        if self._lost:
            on_lost(self._problem)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all the methods, but not the base class.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
            for kind, fields in messages:
                if self.on_message is None:
                    self._early.append((kind, fields))
                else:
                    self.on_message(kind, fields)
        except (ValueError, KeyError, TypeError) as error:
            self._problem = f"the sandbox's agent sent what is no message: {error}"
            self.transport.abort()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.writable.set()
        self._lost = True
        self._problem = self._problem or "the sandbox's agent ended"
        if self.on_lost is not None:
            self.on_lost(self._problem)


class _Run:
    """A command that has no result yet."""

    def __init__(self, token: int, output: OutputSink) -> None:
        self.token = token
        self.output = output
        self.done: asyncio.Future[AgentResult] = asyncio.get_running_loop().create_future()


class Channel:
    """Calls to one agent. All of them raise SandboxDied once the agent is gone, and SandboxClosed
    after `aclose`; all may be called concurrently, from the loop that accepted it."""

    lost: asyncio.Future[str]
    """Set once, with a message, when the connection ends before `aclose`."""
    agent_version: str
    running: tuple[str, ...]
    """Actions that ran already when the agent connected (`adopt` takes them over)."""
    finished: tuple[str, ...]
    """Actions whose results were waiting when the agent connected."""

    def __init__(self, protocol: _AgentProtocol) -> None:
        loop = asyncio.get_running_loop()
        self.lost = loop.create_future()
        self.agent_version = ""
        self.running = ()
        self.finished = ()
        self._closed = False
        self._gone = loop.create_future()
        self._hello: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        self._runs: dict[str, _Run] = {}
        self._replies: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._numbers = count(1)
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
        self.agent_version = hello["version"]
        self.running = tuple(hello["running"])
        self.finished = tuple(hello["finished"])

    async def configure(
        self, *, env: Mapping[str, str], workdir: str, shell: tuple[str, ...], user: str
    ) -> None:
        """What commands get that do not say otherwise. An empty shell is `bash -c` where bash is,
        else `sh -c`; an empty user is who the agent runs as. Raises PermanentError for a user
        that the sandbox does not have."""
        try:
            await self._call(
                "config",
                env={name: _bytes(value) for name, value in env.items()},
                workdir=_bytes(workdir),
                shell=[_bytes(word) for word in shell],
                user=_bytes(user),
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
    ) -> AgentResult:
        """Run a command to its end; its output goes to `output` as it comes. `cores` are told to
        the command, `affinity` binds it (None: all that its sandbox may use). When cancelled, the
        command is killed. Raises PermanentError if it cannot be run at all: no such user or cwd, a
        request above 4 MiB."""
        message = _frame_of(
            "exec", _exec_fields(action, token, spec, cores, affinity, timeout_s), "the command"
        )
        return await self._follow(action, token, output, message)

    async def adopt(self, action: str, token: int, output: OutputSink) -> AgentResult:
        """Take over an action that an earlier connection started: its output comes again from
        the beginning, as far as it was kept. Raises PermanentError if the agent does not know it."""
        message = _frame_of("attach", {"action": action, "token": token}, "the action")
        return await self._follow(action, token, output, message)

    async def _follow(
        self, action: str, token: int, output: OutputSink, message: bytes
    ) -> AgentResult:
        self._check()
        if action in self._runs:
            raise PermanentError(f"the action {action} runs in this sandbox already")
        run = self._runs[action] = _Run(token, output)
        self._protocol.transport.write(message)
        try:
            return await run.done
        except asyncio.CancelledError:
            self._tell("kill", action=action)
            raise
        finally:
            del self._runs[action]

    async def kill(self, action: str) -> None:
        """Kill the command with all that descends from it: its `exec` returns soon, KILLED. No
        effect if it is not running."""
        self._check()
        self._tell("kill", action=action)

    async def ping(self) -> None:
        """One round trip to the agent."""
        await self._call("ping")

    async def read_file(
        self, path: str, offset: int = 0, limit: int = 0
    ) -> AsyncIterator[tuple[bytes, int]]:
        """Chunks of at most 1 MiB, each with the file's whole size; one empty chunk for an empty
        file. `limit` 0 reads to the end. Regular files only. Raises FileProblem."""
        async with self._transfers:
            number = next(self._numbers)
            last = False
            request = {"path": _bytes(path), "offset": offset, "limit": limit}
            try:
                reply = await self._call("read", number, **request)
                while True:
                    last = reply["last"]
                    if reply["data"] or "offset" in request:
                        yield reply["data"], reply["size"]
                    if last:
                        return
                    request = {"path": _bytes(path)}
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
            request: dict[str, Any] = {"path": _bytes(path), "mode": mode}
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
                raise FileProblem(problem.code, path, _sentence(problem)) from problem
            finally:
                if not complete:
                    self._tell("abort", id=number)

    async def list_files(self, path: str) -> list[FileInfo]:
        """The entries of a folder, sorted by name; at most 10,000. Raises FileProblem."""
        reply = await self._call("list", path=_bytes(path))
        return [_file_info(entry) for entry in reply["entries"]]

    async def stat(self, path: str) -> FileInfo:
        """Of the path itself: a symlink is not followed. Raises FileProblem."""
        return _file_info(await self._call("stat", path=_bytes(path)))

    async def shutdown(self) -> None:
        """Tell the agent to exit, which ends its sandbox. No effect if it is gone."""
        self._tell("shutdown")

    async def aclose(self) -> None:
        """Hang up. The agent goes on and waits for a server. Idempotent."""
        if not self._closed:
            self._closed = True
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
        message = _frame_of(kind, {"id": number, **fields}, "the request")
        self._replies[number] = reply
        self._protocol.transport.write(message)
        try:
            return await reply
        finally:
            self._replies.pop(number, None)

    def _tell(self, kind: str, **fields: Any) -> None:
        """Send what has no answer; nobody to tell is fine."""
        if not self._closed and not self.lost.done():
            self._protocol.transport.write(wire.frame(kind, fields))

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
                    FileProblem(fields["code"], _text(fields["path"]), fields["message"])
                )
        elif kind == "refused":
            run = self._runs.get(fields["action"])
            if run is not None and run.token == fields["token"] and not run.done.done():
                run.done.set_exception(PermanentError(fields["message"]))
        elif kind == "hello" and not self._hello.done():
            self._hello.set_result(fields)

    def _on_result(self, fields: Mapping[str, Any]) -> None:
        run = self._runs.get(fields["action"])
        # One that nobody waits for any more is taken as well, so that the agent forgets it.
        self._tell("taken", action=fields["action"], token=fields["token"])
        if run is not None and run.token == fields["token"] and not run.done.done():
            run.done.set_result(_result(fields))

    def _on_lost(self, problem: str) -> None:
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


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    """File names need not be UTF-8; what shows them must be."""
    return data.decode("utf-8", "replace")


def _sentence(problem: FileProblem) -> str:
    return str(problem).removeprefix(f"{problem.path}: ")


def _frame_of(kind: str, fields: dict[str, Any], what: str) -> bytes:
    try:
        return wire.frame(kind, fields)
    except ValueError as error:
        raise PermanentError(f"{what} cannot be sent to the sandbox: {error}") from error


def _exec_fields(
    action: str,
    token: int,
    spec: ExecSpec,
    cores: tuple[int, ...] | None,
    affinity: tuple[int, ...] | None,
    timeout_s: float | None,
) -> dict[str, Any]:
    argv, command, env = spec.argv, spec.shell_command, dict(spec.env)
    if cores is not None:
        number = str(len(cores))
        env = {"TANGRAM_CORES": number, "OMP_NUM_THREADS": number, **env}
        if spec.substitute_cores:
            argv = tuple(word.replace(CORES_PLACEHOLDER, number) for word in argv)
            command = command.replace(CORES_PLACEHOLDER, number)
    return {
        "action": action,
        "token": token,
        "argv": [_argument(f"argv[{index}]", word) for index, word in enumerate(argv)],
        "command": _argument("command", command),
        "cwd": _argument("cwd", spec.cwd),
        "env": {_variable(name): _argument(f"env {name}", value) for name, value in env.items()},
        "stdin": spec.stdin,
        "user": _argument("user", spec.user),
        "timeout_s": timeout_s,
        "max_output": min(spec.max_output_bytes, wire.MAX_OUTPUT),
        "affinity": None if affinity is None else list(affinity),
    }


def _argument(field: str, text: str) -> bytes:
    if "\0" in text:
        raise PermanentError(f"{field} holds a NUL byte, which no process can be given")
    return _bytes(text)


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise PermanentError(f"env: {name!r} cannot be the name of a variable")
    return name


def _result(fields: Mapping[str, Any]) -> AgentResult:
    return AgentResult(
        outcome=Outcome(fields["outcome"]),
        exit_code=fields["exit_code"],
        signal=fields["signal"],
        run_s=fields["run_s"],
        cpu_seconds=fields["cpu_s"],
        peak_memory_bytes=fields["rss"],
        stdout_bytes=fields["stdout"],
        stderr_bytes=fields["stderr"],
        survivors=fields["survivors"],
        sandbox_reset=fields["reset"],
    )


def _file_info(fields: Mapping[str, Any]) -> FileInfo:
    return FileInfo(
        name=_text(fields["name"]),
        kind=fields["kind"],
        size=fields["size"],
        mode=fields["mode"],
        modified_unix_s=fields["modified"],
        target=_text(fields["target"]),
    )
