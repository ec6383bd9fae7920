"""The process launcher: an agent as a plain child. No isolation at all; for debugging only.

Commands run as the server's own user and see all of its machine. What stays is the interface, a
folder of its own, and that everything a sandbox started ends with it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from ...base import SandboxSpec
from ...errors import PermanentError, SandboxDied, TemporaryError, Unsupported
from . import folder as folders
from .base import Check, Launcher, MemoryEvents, Sandbox
from .channel import Channel
from .interpreter import source_command
from .listener import AgentListener
from .starting import finished, greet, limit_open_files
from .template import Template, neutral

MARK = "TANGRAM_SANDBOX"
"""In the environment of everything that a sandbox starts, so that it is found wherever it hides."""
CURE = "set unsafe: true if every command may do what the server itself may do, else use bubblewrap"
SOCKETS_PREFIX = "p-"
"""Of our folders in the runtime folder, which other launchers use too."""
_WORKSPACE = "workspace"


class ProcessSandbox(Sandbox):
    """One process tree below an agent."""

    launcher = "process"
    channel: Channel

    def __init__(self, owner: Process, spec: SandboxSpec, on_lost: Callable[[str], None]) -> None:
        self.id = secrets.token_hex(5)
        self.trajectory = spec.trajectory
        self.folder = folders.SandboxFolder(owner.state, self.id)
        self.sockets = owner.runtime / f"{SOCKETS_PREFIX}{self.id}"
        self.workdir = str(self.folder.path / _WORKSPACE)
        self.limits = owner.limits()
        self.agent: subprocess.Popen[bytes] | None = None
        self._owner = owner
        self._on_lost = on_lost
        self._closing: asyncio.Task[None] | None = None

    async def assign(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> None:
        self.trajectory = spec.trajectory
        self.workdir = spec.workdir or self.workdir
        await self.channel.configure(
            env={**_environment(self), **spec.env},
            workdir=self.workdir,
            shell=spec.shell,
            user="",
        )
        if self.channel.lost.done():
            raise SandboxDied(self.channel.lost.result())
        self._on_lost = on_lost

    async def confine(self, cores: tuple[int, ...] | None) -> None:
        """No effect: its agent binds each command to the cores of its lease."""

    def boost(self, on: bool) -> None:
        """No effect: it is never held back."""

    def events(self) -> MemoryEvents:
        return MemoryEvents()

    async def disk_used_bytes(self) -> int:
        roots = [self.folder.path / _WORKSPACE]
        return await asyncio.to_thread(folders.disk_used_bytes, roots)

    def root_pid(self) -> int | None:
        return self.agent.pid if self.agent is not None else None

    async def aclose(self) -> None:
        """Raises TemporaryError if something in it cannot be killed; it can be called again."""
        if self._closing is None or (self._closing.done() and self._closing.exception()):
            self._closing = asyncio.ensure_future(self._owner.close_sandbox(self))
        await asyncio.shield(self._closing)

    def attach(self, channel: Channel) -> None:
        """The agent answered: from now on its end is reported."""
        self.channel = channel
        channel.lost.add_done_callback(self._report_lost)

    def _report_lost(self, lost: asyncio.Future[str]) -> None:
        if self._closing is None and not lost.cancelled():
            self._on_lost(lost.result())


class Process(Launcher):
    """Starts agents as children of the server. One per server and state folder."""

    name = "process"

    def __init__(
        self,
        *,
        name: str,
        state: Path,
        runtime: Path,
        orphan_after_s: float,
        unsafe: bool = False,
    ) -> None:
        self.instance = name
        self.state = state
        self.runtime = runtime
        self._orphan_after_s = orphan_after_s
        self._unsafe = unsafe
        self._live: dict[str, ProcessSandbox] = {}

    def limits(self) -> Mapping[str, str]:
        # Memory and disk are watched, commands are bound to cores; nothing holds the others.
        nothing = dict.fromkeys(("pids", "shm"), "none")
        return {**nothing, "memory": "soft", "disk": "soft", "cores": "soft"}

    async def checks(self) -> list[Check]:
        if not self._unsafe:
            return [Check("unsafe", False, "the process launcher isolates nothing", CURE)]
        return [Check("unsafe", True, "allowed: commands can do what the server can")]

    async def check_image(self, spec: SandboxSpec) -> None:
        if not self._unsafe:
            raise Unsupported("the process launcher isolates nothing", cure=CURE)
        if spec.image:
            raise Unsupported(
                f"image={spec.image!r} cannot be run by the process launcher",
                cure="leave image out, or use the docker launcher",
            )
        if spec.user:
            raise Unsupported(
                f"user={spec.user!r} cannot be had from the process launcher",
                cure="leave user out: commands run as the server's user",
            )
        if spec.workdir and not spec.workdir.startswith("/"):
            raise PermanentError(f"workdir is {spec.workdir!r}, but must be an absolute path")

    def neutral(self, spec: SandboxSpec) -> SandboxSpec:
        return neutral(spec, memory_bytes=None, user="")

    async def start_neutral(
        self, template: Template, on_lost: Callable[[str], None]
    ) -> ProcessSandbox:
        sandbox = ProcessSandbox(self, template.spec, on_lost)
        self._live[sandbox.id] = sandbox
        try:
            await self._start(sandbox)
        except BaseException as error:
            said = await asyncio.shield(asyncio.to_thread(sandbox.folder.log_tail))
            await sandbox.aclose()
            if isinstance(error, OSError | TemporaryError):
                message = f"the sandbox cannot be started: {error} {said}"
                raise TemporaryError(message.strip()) from error
            raise
        return sandbox

    async def reap(self) -> int:
        return await asyncio.to_thread(self._reap)

    async def aclose(self) -> None:
        closing = [sandbox.aclose() for sandbox in list(self._live.values())]
        outcomes = await asyncio.gather(*closing, return_exceptions=True)
        for problem in filter(None, outcomes):
            raise problem

    async def close_sandbox(self, sandbox: ProcessSandbox) -> None:
        """The sandbox's `aclose` calls this once."""
        try:
            await finished(asyncio.to_thread(self._destroy, sandbox))
        except TimeoutError as error:
            raise TemporaryError(f"the sandbox of {sandbox.trajectory}: {error}") from error
        finally:
            if hasattr(sandbox, "channel"):
                await sandbox.channel.aclose()
        self._live.pop(sandbox.id, None)

    async def _start(self, sandbox: ProcessSandbox) -> None:
        await finished(asyncio.to_thread(self._make_folders, sandbox))
        listener = AgentListener(sandbox.sockets / "agent.sock")
        try:
            await finished(asyncio.to_thread(self._spawn, sandbox))
            assert sandbox.agent is not None
            pid = sandbox.agent.pid
            channel = await greet(listener, pid, os.pidfd_open(pid))
        finally:
            listener.close()
        sandbox.attach(channel)

    def _make_folders(self, sandbox: ProcessSandbox) -> None:
        sandbox.folder.create()
        (sandbox.folder.path / _WORKSPACE).mkdir()
        self.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox.sockets.mkdir(mode=0o700)

    def _spawn(self, sandbox: ProcessSandbox) -> None:
        socket = str(sandbox.sockets / "agent.sock")
        arguments = ["--socket", socket, "--orphan-after", f"{self._orphan_after_s:g}"]
        with open(sandbox.folder.path / folders.LOG, "wb") as messages:
            sandbox.agent = subprocess.Popen(
                source_command(*arguments),
                cwd=sandbox.folder.path,
                env=_environment(sandbox),
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                start_new_session=True,
            )
        limit_open_files(sandbox.agent.pid)
        sandbox.folder.record([sandbox.agent.pid])

    def _destroy(self, sandbox: ProcessSandbox) -> None:
        if sandbox.agent is not None:
            # The agent first: it would fork what is killed here anew.
            sandbox.agent.kill()
            sandbox.agent.wait()
        _kill_marked(sandbox.id)
        sandbox.folder.remove()
        shutil.rmtree(sandbox.sockets, ignore_errors=True)

    def _reap(self) -> int:
        live = {sandbox.folder.path for sandbox in self._live.values()}
        left = folders.leftovers(self.state, live)
        for folder in left:
            folder.kill_recorded()
            _kill_marked(folder.id)
            folder.remove()
        sockets = {sandbox.sockets for sandbox in self._live.values()}
        for entry in folders.leftovers(self.runtime, sockets, SOCKETS_PREFIX):
            entry.remove()
        return len(left)


def _environment(sandbox: ProcessSandbox) -> dict[str, str]:
    workspace = str(sandbox.folder.path / _WORKSPACE)
    return {
        MARK: sandbox.id,
        "HOME": workspace,
        "LANG": "C.UTF-8",
        "PATH": os.environ.get("PATH", os.defpath),
        "TMPDIR": workspace,
    }


def _kill_marked(sandbox_id: str) -> None:
    """End everything that carries a sandbox's mark; returns when it is gone.

    Raises TimeoutError if something does not die.
    """
    mark = f"{MARK}={sandbox_id}".encode()

    def nothing_left() -> bool:
        marked = _marked(mark)
        for pid in marked:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not marked

    folders.wait_until(nothing_left, f"processes of sandbox {sandbox_id} do not die of SIGKILL")


def _marked(mark: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # It is gone, or another user's, so none of ours.
        if mark in environment.split(b"\0"):
            found.append(int(entry.name))
    return found
