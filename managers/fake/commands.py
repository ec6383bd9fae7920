"""The command language of fake sandboxes. Each command is one coroutine in the table COMMANDS.

Understood as an argv, or as a shell line whose commands are joined by `;` and `&&` (quotes work;
pipes, redirections and variables do not). `sh -c LINE` and `bash -c LINE` are shell lines too.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ..base import ExecSpec, Outcome, OutputSink, Stream
from ..errors import FileProblem
from .files import FakeFiles
from .sessions import FakeSession

NOT_FOUND = 127
USAGE = 2
EMIT_BYTES_MAX = 64 << 10
"""Bytes that `emit` writes at once, before it lets others run."""


class Died(Exception):
    """Ends the whole run in another way than by an exit code."""

    def __init__(self, outcome: Outcome, signal: int) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.signal = signal


@dataclass(slots=True)
class CutStream:
    """One output stream: its head goes to the sink as it comes, its tail at the end."""

    stream: Stream
    sink: OutputSink
    limit: int
    produced: int = 0
    tail: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        room = max(0, self.limit - self.limit // 2 - self.produced)
        if data[:room]:
            self.sink.write(self.stream, self.produced, data[:room])
        self.produced += len(data)
        self.tail += data[room:]
        del self.tail[: max(0, len(self.tail) - self.limit // 2)]

    def finish(self) -> None:
        if self.tail:
            self.sink.write(self.stream, self.produced - len(self.tail), bytes(self.tail))


@dataclass(slots=True)
class Run:
    """All that a command may see and touch."""

    spec: ExecSpec
    cwd: str
    env: dict[str, str]
    files: FakeFiles
    cores: Callable[[], int]
    """The granted number of cores now: a resize changes it."""
    stdout: CutStream
    stderr: CutStream
    gate: Callable[[str], asyncio.Event]
    processes: list[str]
    """Named processes of its sandbox: those left behind, and a `spin` that runs."""
    port: Callable[[int], asyncio.Event]
    session: FakeSession | None = None
    exited: bool = False
    """`exit` was said: a session ends with it."""

    def say(self, text: str) -> None:
        self.stdout.write(text.encode())

    def path(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.cwd}/{path}"


async def execute(run: Run) -> int:
    """The exit code of the spec's command. Raises Died."""
    spec = run.spec
    if not spec.argv:
        return await _line(run, spec.shell_command)
    argv = [_substitute(run, word) for word in spec.argv] if spec.substitute_cores else spec.argv
    if len(argv) == 3 and argv[0] in ("sh", "bash") and argv[1] == "-c":
        return await _line(run, argv[2])
    return await _command(run, list(argv))


async def _line(run: Run, line: str) -> int:
    lexer = shlex.shlex(_substitute(run, line), posix=True, punctuation_chars=";&")
    lexer.whitespace_split = True
    code, argv, skipping = 0, list[str](), False
    for word in [*lexer, ";"]:
        if word not in (";", "&&"):
            argv.append(word)
            continue
        if argv and not skipping:
            code = await _command(run, argv)
            if argv[0] == "exit":
                return code
        skipping = word == "&&" and code != 0
        argv = []
    return code


async def _command(run: Run, argv: list[str]) -> int:
    command = COMMANDS.get(argv[0].rpartition("/")[2])
    if command is None:
        run.stderr.write(f"{argv[0]}: command not found\n".encode())
        return NOT_FOUND
    try:
        return await command(run, argv[1:])
    except FileProblem as problem:
        run.stderr.write(f"{argv[0]}: {problem}\n".encode())
        return 1
    except (LookupError, ValueError):
        run.stderr.write(f"{argv[0]}: wrong arguments: {shlex.join(argv[1:])}\n".encode())
        return USAGE


def _substitute(run: Run, text: str) -> str:
    return text.replace("{cores}", str(run.cores())) if run.spec.substitute_cores else text


async def _echo(run: Run, args: list[str]) -> int:
    """echo WORD...: to stdout."""
    run.say(" ".join(args) + "\n")
    return 0


async def _warn(run: Run, args: list[str]) -> int:
    """warn WORD...: to stderr."""
    run.stderr.write((" ".join(args) + "\n").encode())
    return 0


async def _exit(run: Run, args: list[str]) -> int:
    """exit CODE: end the command, and the line and the session, with it."""
    run.exited = True
    return int(args[0]) & 0xFF


async def _true(run: Run, args: list[str]) -> int:
    return 0


async def _false(run: Run, args: list[str]) -> int:
    return 1


async def _sleep(run: Run, args: list[str]) -> int:
    """sleep SECONDS, on the event loop's clock."""
    await asyncio.sleep(float(args[0]))
    return 0


async def _gate(run: Run, args: list[str]) -> int:
    """gate NAME: wait until a test opens that gate."""
    await run.gate(args[0]).wait()
    return 0


async def _spin(run: Run, args: list[str]) -> int:
    """spin [NAME]: a process, named if it is to be found, that runs until killed."""
    name = args[0] if args else "spin"
    run.processes.append(name)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        if name in run.processes:  # not if its whole sandbox died
            run.processes.remove(name)
    return 0


async def _cat(run: Run, args: list[str]) -> int:
    """cat [PATH...]: files, else stdin, to stdout."""
    for data in [run.files.read(run.path(path)) for path in args] or [run.spec.stdin]:
        run.stdout.write(data)
    return 0


async def _write(run: Run, args: list[str]) -> int:
    """write PATH TEXT: make a file."""
    run.files.write(run.path(args[0]), args[1].encode(), 0o644)
    return 0


async def _link(run: Run, args: list[str]) -> int:
    """link TARGET PATH: make a symlink."""
    run.files.link(args[0], run.path(args[1]))
    return 0


async def _ls(run: Run, args: list[str]) -> int:
    """ls [PATH]: one name a line."""
    for info in run.files.list(run.path(args[0] if args else ".")):
        run.say(info.name + "\n")
    return 0


async def _bytes(run: Run, args: list[str]) -> int:
    """bytes HEX: these bytes to stdout."""
    run.stdout.write(bytes.fromhex(args[0]))
    return 0


async def _emit(run: Run, args: list[str]) -> int:
    """emit COUNT: that many bytes to stdout, the digits 0-9 over and over."""
    left, pattern = int(args[0]), b"0123456789" * (EMIT_BYTES_MAX // 10)
    while left > 0:
        run.stdout.write(pattern[:left])
        left -= len(pattern)
        await asyncio.sleep(0)
    return 0


async def _printenv(run: Run, args: list[str]) -> int:
    """printenv NAME: its value; exit code 1 if it is not set."""
    if args[0] not in run.env:
        return 1
    run.say(run.env[args[0]] + "\n")
    return 0


async def _pwd(run: Run, args: list[str]) -> int:
    run.say(run.cwd + "\n")
    return 0


async def _cd(run: Run, args: list[str]) -> int:
    """cd PATH: for the rest of the line, and of the session."""
    run.cwd = run.path(args[0])
    return 0


async def _export(run: Run, args: list[str]) -> int:
    """export NAME VALUE: alike."""
    run.env[args[0]] = args[1]
    return 0


async def _ask(run: Run, args: list[str]) -> int:
    """ask QUESTION: wait for a line that is typed into the session; say it back."""
    if run.session is None:
        return 1
    run.say(args[0])
    run.say(await run.session.typed.get() + "\n")
    return 0


async def _listen(run: Run, args: list[str]) -> int:
    """listen PORT: until killed."""
    run.port(int(args[0])).set()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        run.port(int(args[0])).clear()
    return 0


async def _nproc(run: Run, args: list[str]) -> int:
    """nproc: the granted number of cores."""
    run.say(f"{run.cores()}\n")
    return 0


async def _signal(run: Run, args: list[str]) -> int:
    """signal N: die of it."""
    raise Died(Outcome.FINISHED, int(args[0]))


async def _exceed(run: Run, args: list[str]) -> int:
    """exceed memory | disk | processes: die of that limit."""
    raise Died(_LIMITS[args[0]], 9)


async def _daemon(run: Run, args: list[str]) -> int:
    """daemon NAME: leave a background process; it outlives the action."""
    run.processes.append(args[0])
    return 0


async def _pgrep(run: Run, args: list[str]) -> int:
    """pgrep NAME: exit code 0 if a process of that name runs."""
    return 0 if args[0] in run.processes else 1


_LIMITS = {
    "memory": Outcome.OUT_OF_MEMORY,
    "disk": Outcome.OUT_OF_DISK,
    "processes": Outcome.TOO_MANY_PROCESSES,
}

COMMANDS: Mapping[str, Callable[[Run, list[str]], Awaitable[int]]] = {
    "ask": _ask,
    "bytes": _bytes,
    "cat": _cat,
    "cd": _cd,
    "daemon": _daemon,
    "echo": _echo,
    "emit": _emit,
    "exceed": _exceed,
    "exit": _exit,
    "export": _export,
    "false": _false,
    "gate": _gate,
    "link": _link,
    "listen": _listen,
    "ls": _ls,
    "nproc": _nproc,
    "pgrep": _pgrep,
    "printenv": _printenv,
    "pwd": _pwd,
    "signal": _signal,
    "sleep": _sleep,
    "spin": _spin,
    "true": _true,
    "warn": _warn,
    "write": _write,
}
