"""A launcher whose sandboxes do what a test says: for the CpuManager's own bookkeeping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from tangram.managers.base import Outcome, SandboxSpec
from tangram.managers.cpu.sandbox.base import Check, Launcher, MemoryEvents, Sandbox
from tangram.managers.cpu.sandbox.channel import Channel
from tangram.managers.cpu.sandbox.layers import Files
from tangram.managers.cpu.sandbox.messages import AgentResult
from tangram.managers.cpu.sandbox.template import Template, neutral
from tangram.managers.errors import SandboxClosed, SandboxDied

LIMITS = {"memory": "hard", "disk": "soft", "pids": "hard", "shm": "hard", "cores": "hard"}


class ScriptedChannel:
    """Runs last until `finish`, a kill, or the sandbox's end."""

    def __init__(self) -> None:
        self.runs: dict[str, asyncio.Future[AgentResult]] = {}
        self.obeys_kills = True
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def exec(self, action: str, token: int, spec: object, **settings: Any) -> AgentResult:
        self.runs[action] = asyncio.get_running_loop().create_future()
        return await self.runs[action]

    def finish(self, action: str, outcome: Outcome, exit_code: int, *, reset: bool = False) -> None:
        number = -exit_code if exit_code < 0 else None
        result = AgentResult(outcome, exit_code, number, 1.0, 0.5, 7, 0, 0, 0, reset)
        if not self.runs[action].done():
            self.runs[action].set_result(result)

    async def kill(self, action: str) -> None:
        if self.obeys_kills:
            self.finish(action, Outcome.KILLED, -9)

    async def stat(self, path: str) -> object:
        return path

    def end(self, error: Exception) -> None:
        for run in self.runs.values():
            if not run.done():
                run.set_exception(error)


class ScriptedSandbox(Sandbox):
    launcher = "bubblewrap"
    workdir = "/workspace"

    def __init__(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> None:
        self.trajectory = ""
        self.template = spec
        self.assigned: list[SandboxSpec] = []
        self.assign_errors: list[Exception] = []
        self.limits: Mapping[str, str] = LIMITS
        self.scripted = ScriptedChannel()
        self.channel = cast(Channel, self.scripted)
        self.confined: list[tuple[int, ...] | None] = []
        self.boosts: list[bool] = []
        self.counters = MemoryEvents()
        self.disk_bytes = 0
        self.disk_used: list[int] = []
        """What the next looks find; the last one stays."""
        self.looks = 0
        self.confine_errors: list[Exception] = []
        self.confine_gate = asyncio.Event()
        self.confine_gate.set()
        self.closed = 0
        self.kept_limits: list[int] = []
        self._on_lost = on_lost

    async def assign(self, spec: SandboxSpec, on_lost: Callable[[str], None]) -> None:
        if self.assign_errors:
            raise self.assign_errors.pop(0)
        self.assigned.append(spec)
        self.trajectory = spec.trajectory
        self._on_lost = on_lost

    async def keep_files(self, name: str, limit_bytes: int) -> Files:
        self.kept_limits.append(limit_bytes)
        return Files("", size_bytes=7)

    async def confine(self, cores: tuple[int, ...] | None) -> None:
        await self.confine_gate.wait()
        if self.confine_errors:
            raise self.confine_errors.pop(0)
        self.confined.append(cores)

    def boost(self, on: bool) -> None:
        self.boosts.append(on)

    def events(self) -> MemoryEvents:
        return self.counters

    async def disk_used_bytes(self) -> int:
        self.looks += 1
        if self.disk_used:
            self.disk_bytes = self.disk_used.pop(0)
        return self.disk_bytes

    async def aclose(self) -> None:
        self.closed += 1
        self.scripted.end(SandboxClosed("closed"))

    def die(self, message: str) -> None:
        if not self.scripted.lost.done():
            self.scripted.lost.set_result(message)
        self.scripted.end(SandboxDied(message))
        self._on_lost(message)


class ScriptedLauncher(Launcher):
    def __init__(self, name: str) -> None:
        self.name = name
        self.started: list[ScriptedSandbox] = []
        self.checked: list[Check] = [Check("works", True, "always")]
        self.checks_made = 0
        self.start_error: Exception | None = None
        self.start_errors: list[Exception] = []
        """Of the next starts; later ones work, unless `start_error` is set."""
        self.image_id = ""
        self.start_gate = asyncio.Event()
        self.start_gate.set()
        self.starting = 0
        self.starting_max = 0
        self.reaped = 0
        self.closed = 0
        self.kept = 0

    def kept_bytes(self) -> int:
        return self.kept

    async def checks(self) -> list[Check]:
        self.checks_made += 1
        return self.checked

    def limits(self) -> Mapping[str, str]:
        return LIMITS

    async def check_image(self, spec: SandboxSpec) -> None:
        return None

    def neutral(self, spec: SandboxSpec) -> SandboxSpec:
        return neutral(spec, memory_bytes=1, user="")

    async def identity(self, spec: SandboxSpec) -> str:
        return self.image_id

    async def start_neutral(self, template: Template, on_lost: Callable[[str], None]) -> Sandbox:
        self.starting += 1
        self.starting_max = max(self.starting_max, self.starting)
        try:
            await self.start_gate.wait()
            if self.start_error is not None:
                raise self.start_error
            if self.start_errors:
                raise self.start_errors.pop(0)
            self.started.append(ScriptedSandbox(template.spec, on_lost))
            return self.started[-1]
        finally:
            self.starting -= 1

    async def reap(self) -> int:
        self.reaped += 1
        return 0

    async def aclose(self) -> None:
        self.closed += 1


class ScriptedBuilder:
    def __init__(self) -> None:
        self.launchers = {name: ScriptedLauncher(name) for name in ("bubblewrap", "docker")}
        self.closed = 0

    def build(self, name: str) -> Launcher:
        return self.launchers[name]

    def close(self) -> None:
        self.closed += 1
