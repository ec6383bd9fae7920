"""The fake manager: leases and sandboxes with all a real node's promises, and knobs to break them.

It checks its caller as well: a core granted twice, more memory than there is, or a token used
twice raises RuntimeError and is remembered in `violations`.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...scheduler.model import CORES, MEMORY, Capacity, ResourceId
from ..base import (
    ExecSpec,
    ImageInfo,
    KeptFiles,
    Lease,
    Manager,
    NodeDescription,
    Outcome,
    OutputSink,
    Preparation,
    RunRequest,
    RunResult,
    SandboxInfo,
    SandboxSpec,
    Stream,
    WarmStatus,
)
from ..errors import (
    LeaseLost,
    PermanentError,
    SandboxClosed,
    SandboxDied,
)
from .commands import CutStream, Run, execute
from .files import FakeFiles
from .images import FakeImages
from .inside import WORKDIR, FakeInside, FakeSandbox, finish
from .sessions import FakeSession

Call = Literal[
    "check_open", "open", "close", "acquire", "run", "kill", "resize", "release", "file",
    "keep", "discard", "restore", "session", "pull",
]  # fmt: skip

LIMITS = {"memory": "hard", "disk": "soft", "pids": "hard", "shm": "hard", "cores": "soft"}


class Faults:
    """What is to go wrong: errors that the next calls raise, and calls that hang until let go."""

    def __init__(self) -> None:
        self._errors: dict[str, deque[Exception]] = defaultdict(deque)
        self._holds: dict[str, asyncio.Event] = {}

    def fail(self, call: Call, *errors: Exception) -> None:
        """The next calls raise these, in this order; later ones work again."""
        self._errors[call].extend(errors)

    def hold(self, call: Call) -> asyncio.Event:
        """Every such call waits, before it does anything, until the returned event is set."""
        return self._holds.setdefault(call, asyncio.Event())

    async def meet(self, call: Call) -> None:
        if held := self._holds.get(call):
            await held.wait()
            if self._holds.get(call) is held:
                del self._holds[call]
        if errors := self._errors.get(call):
            raise errors.popleft()


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[RunResult]
    lost: str = ""


class FakeManager(FakeInside, Manager):
    """One node of `cores` cores and `memory_bytes`, with a SandboxHost's and an ImageHost's abilities.

    Time is the event loop's: on a loop with virtual time `sleep 60` takes none.
    """

    def __init__(
        self,
        node: str = "node0",
        *,
        cores: int = 2,
        memory_bytes: int = 8 << 30,
        images: frozenset[str] | None = None,
        registry: Mapping[str, str] | None = None,
    ) -> None:
        """`images` are those that are there; None means any. `registry` maps names that can be
        pulled to their digests."""
        self.node = node
        self.faults = Faults()
        self.calls: list[tuple[Call, str]] = []
        """Every call with its action or trajectory, in order."""
        self.violations: list[str] = []
        """What the caller did that no caller may: empty at the end of every test."""
        self._cores = ResourceId(CORES, node)
        self._memory = ResourceId(MEMORY, node)
        present = None if images is None else set(images)
        self.store = FakeImages(node, present, dict(registry or {}), self._pulling)
        self._total_cores, self._total_memory = cores, memory_bytes
        self._free = set(range(cores))
        self._sandboxes: dict[str, FakeSandbox] = {}
        self._leases: dict[int, Lease] = {}
        self._runs: dict[int, _Running] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._closed = False
        self.kept: dict[str, FakeFiles] = {}
        """Kept files by their ids."""

    # What a test does with it

    def gate(self, name: str) -> asyncio.Event:
        """The gate at which `gate NAME` waits."""
        return self._gates.setdefault(name, asyncio.Event())

    def lose_sandbox(self, trajectory: str, message: str = "its agent died") -> None:
        """The sandbox dies under its actions."""
        sandbox = self._sandboxes[trajectory]
        if sandbox.lost:
            return
        sandbox.lost = message
        sandbox.processes.clear()
        sandbox.background.end(SandboxDied(message))
        for token in [t for t, lease in self._leases.items() if lease.trajectory == trajectory]:
            self._break(token, message)
        sandbox.on_lost(message)

    def lose_lease(self, action: str, message: str = "its lease is gone") -> None:
        """What this action's lease stands for is gone, while its sandbox lives."""
        for token in [t for t, lease in self._leases.items() if lease.action == action]:
            self._break(token, message)
            self._give_back(token)

    def processes(self) -> list[str]:
        """The named processes of all sandboxes."""
        return [name for sandbox in self._sandboxes.values() for name in sandbox.processes]

    @property
    def free_cores(self) -> int:
        return len(self._free)

    @property
    def running(self) -> int:
        return len(self._runs)

    # Manager

    def capacities(self) -> tuple[Capacity, ...]:
        return (
            Capacity(self._cores, self._total_cores),
            Capacity(self._memory, self._total_memory),
        )

    async def acquire(
        self, action: str, trajectory: str | None, token: int, amounts: Mapping[ResourceId, int]
    ) -> Lease:
        await self._enter("acquire", action)
        self._usable(trajectory)
        if token in self._leases:
            self._violated(f"token {token} of action {action!r} is used twice")
        cores = self._choose(amounts.get(self._cores, 0), f"action {action!r}")
        lease = Lease(action, trajectory, self.node, token, dict(amounts), cores)
        self._leases[token] = lease
        return lease

    async def run(self, lease: Lease, request: RunRequest, output: OutputSink) -> RunResult:
        if lease.token in self._runs:
            self._violated(f"action {lease.action!r} runs twice")
        task = asyncio.get_running_loop().create_task(self._run(lease, request, output))
        running = self._runs[lease.token] = _Running(task)
        began = asyncio.get_running_loop().time()
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            del self._runs[lease.token]
        if running.lost:
            raise SandboxDied(running.lost)
        if task.cancelled():
            run_s = asyncio.get_running_loop().time() - began
            return RunResult(Outcome.KILLED, signal=9, exit_code=-9, run_s=run_s)
        return task.result()

    async def kill(self, lease: Lease) -> None:
        await self._enter("kill", lease.action)
        if running := self._runs.get(lease.token):
            running.task.cancel()

    async def resize(self, lease: Lease, amounts: Mapping[ResourceId, int]) -> Lease:
        await self._enter("resize", lease.action)
        held = self._leases.get(lease.token)
        if held is None:
            raise LeaseLost(f"action {lease.action!r} holds no lease any more")
        wanted = amounts.get(self._cores, len(held.cores))
        kept = held.cores[:wanted]
        self._free.update(held.cores[wanted:])
        added = self._choose(wanted - len(kept), f"resizing action {lease.action!r}")
        changed = replace(held, amounts={**held.amounts, **amounts}, cores=kept + added)
        self._leases[lease.token] = changed
        return changed

    async def release(self, lease: Lease) -> None:
        await self._enter("release", lease.action)
        if running := self._runs.get(lease.token):
            running.task.cancel()
            await asyncio.wait({running.task})
        self._give_back(lease.token)

    async def aclose(self) -> None:
        self._closed = True
        for running in list(self._runs.values()):
            running.task.cancel()
        tasks = {running.task for running in self._runs.values()}
        if tasks:
            await asyncio.wait(tasks)
        await self.store.aclose()
        self._sandboxes.clear()
        for token in list(self._leases):
            self._give_back(token)

    # SandboxHost

    async def check_open(self, spec: SandboxSpec) -> SandboxSpec:
        await self._enter("check_open", spec.trajectory)
        self.store.check(spec)
        memory = 1 << 30 if spec.memory_bytes is None else spec.memory_bytes
        disk = 10 << 30 if spec.disk_bytes is None else spec.disk_bytes
        shm = 64 << 20 if spec.shm_bytes is None else spec.shm_bytes
        return replace(spec, memory_bytes=memory, disk_bytes=disk, shm_bytes=shm)

    async def open(
        self, spec: SandboxSpec, token: int, on_lost: Callable[[str], None]
    ) -> SandboxInfo:
        if self._closed:
            raise PermanentError(f"{self.node} is closed")
        if spec.trajectory in self._sandboxes:
            raise PermanentError(f"trajectory {spec.trajectory!r} has a sandbox already")
        sandbox = self._sandboxes[spec.trajectory] = FakeSandbox(spec, on_lost)
        try:
            digest = await self.store.take(spec)
            await self._enter("open", spec.trajectory)
            if spec.snapshot:
                sandbox.files = self._kept_files(spec.snapshot)
            used = sum(held.spec.memory_bytes or 0 for held in self._sandboxes.values())
            if used > self._total_memory:
                self._violated(f"{used} bytes of memory are reserved, {self._total_memory} exist")
            if self._sandboxes.get(spec.trajectory) is not sandbox:
                raise SandboxClosed(f"trajectory {spec.trajectory!r} was closed")
        except BaseException:
            if self._sandboxes.get(spec.trajectory) is sandbox:
                del self._sandboxes[spec.trajectory]
            self.store.leave(spec.trajectory)
            raise
        sandbox.ready = True
        return SandboxInfo(spec.trajectory, "fake", spec.workdir or WORKDIR, LIMITS, digest)

    async def close(self, trajectory: str) -> None:
        await self._enter("close", trajectory)
        sandbox = self._sandboxes.pop(trajectory, None)
        if sandbox is None:
            return
        sandbox.background.end(SandboxClosed(f"trajectory {trajectory!r} was closed"))
        self.store.leave(trajectory)
        for token in [t for t, lease in self._leases.items() if lease.trajectory == trajectory]:
            self._break(token, "its sandbox was closed")
            self._give_back(token)

    async def keep_files(self, trajectory: str, snapshot: str, limit_bytes: int) -> KeptFiles:
        await self._enter("keep", trajectory)
        sandbox = self._usable(trajectory)
        if snapshot in self.kept:
            raise PermanentError(f"files are kept by the id {snapshot!r} already", field="snapshot")
        if sandbox.spec.concurrency == 1:
            self._refuse_while_running(trajectory)
        size_bytes = sandbox.files.used_bytes()
        if size_bytes > limit_bytes:
            raise PermanentError("the files to keep take more than is left for them", field="disk")
        self.kept[snapshot] = copy.deepcopy(sandbox.files)
        return KeptFiles(size_bytes)

    async def discard_files(self, snapshot: str) -> None:
        await self._enter("discard", snapshot)
        self.kept.pop(snapshot, None)

    async def restore_files(self, trajectory: str, snapshot: str) -> None:
        await self._enter("restore", trajectory)
        sandbox = self._usable(trajectory)
        self._refuse_while_running(trajectory)
        sandbox.files = self._kept_files(snapshot)
        sandbox.processes.clear()

    def sandboxes(self) -> Mapping[str, int]:
        busy = {lease.trajectory for lease in self._leases.values()}
        counts = {"starting": 0, "idle": 0, "running": 0}
        for trajectory, sandbox in self._sandboxes.items():
            state = "running" if trajectory in busy else "idle"
            counts[state if sandbox.ready else "starting"] += 1
        return counts

    def corrections(self) -> Mapping[str, int]:
        return {}

    def warm(self) -> tuple[WarmStatus, ...]:
        return ()

    def describe(self) -> NodeDescription:
        return NodeDescription("fake", LIMITS)

    def preparing(self, trajectory: str) -> Preparation | None:
        return self.store.preparing(trajectory)

    # ImageHost

    async def images(self) -> list[ImageInfo]:
        return self.store.all()

    async def prefetch(self, task: str, names: Sequence[str]) -> list[ImageInfo]:
        return self.store.prefetch(task, names)

    # Inside

    async def _pulling(self, image: str) -> None:
        await self._enter("pull", image)

    async def _enter(self, call: Call, subject: str) -> None:
        self.calls.append((call, subject))
        await self.faults.meet(call)

    async def _run(self, lease: Lease, request: RunRequest, output: OutputSink) -> RunResult:
        await self._enter("run", lease.action)
        sandbox = self._usable(lease.trajectory)
        if lease.token not in self._leases:
            raise LeaseLost(f"action {lease.action!r} holds no lease any more")
        spec = request.payload
        if not isinstance(spec, ExecSpec):
            raise PermanentError("a sandbox runs commands alone")
        run = self._prepare(spec, sandbox, output, lease)
        command = execute(run) if run.session is None else run.session.run(execute(run))
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            result = await finish(command, request.timeout_s)
        finally:
            run.stdout.finish()
            if run.session is None:
                run.stderr.finish()
            else:
                run.session.cwd = run.cwd
                if run.exited:
                    sandbox.background.sessions.pop(spec.session, None)
        return replace(
            result,
            run_s=loop.time() - began,
            stdout_bytes=run.stdout.produced,
            stderr_bytes=0 if run.session else run.stderr.produced,
        )

    def _prepare(
        self, spec: ExecSpec, sandbox: FakeSandbox, output: OutputSink, lease: Lease | None
    ) -> Run:
        """Without a lease it is a background process."""
        workdir = sandbox.spec.workdir or WORKDIR
        cwd = spec.cwd if spec.cwd.startswith("/") else f"{workdir}/{spec.cwd}".rstrip("/")
        granted = str(len(lease.cores)) if lease else "1"
        own = {"TANGRAM_CORES": granted, "OMP_NUM_THREADS": granted}
        env = {**own, **sandbox.spec.env, **spec.env}
        session = None
        if spec.session:
            sessions = sandbox.background.sessions
            session = sessions.setdefault(spec.session, FakeSession(cwd, env))
            if session.command is not None:
                raise PermanentError(f"session {spec.session!r} runs another action")
            cwd, env = session.cwd, session.env
            env.update(own)
        stdout = CutStream(Stream.STDOUT, output, spec.max_output_bytes)
        stderr = CutStream(Stream.STDERR, output, spec.max_output_bytes)
        return Run(
            spec=spec,
            cwd=cwd,
            env=env,
            files=sandbox.files,
            cores=lambda: len(self._leases.get(lease.token, lease).cores) if lease else 1,
            stdout=stdout,
            stderr=stderr if session is None else stdout,
            gate=self.gate,
            processes=sandbox.processes,
            session=session,
            port=sandbox.background.port,
        )

    def _usable(self, trajectory: str | None) -> FakeSandbox:
        sandbox = self._sandboxes.get(trajectory or "")
        if sandbox is None or not sandbox.ready:
            raise SandboxClosed(f"trajectory {trajectory!r} has no sandbox on {self.node}")
        if sandbox.lost:
            raise SandboxDied(sandbox.lost)
        return sandbox

    def _kept_files(self, snapshot: str) -> FakeFiles:
        if snapshot not in self.kept:
            raise PermanentError("the files to start from are not there any more", field="snapshot")
        return copy.deepcopy(self.kept[snapshot])

    def _refuse_while_running(self, trajectory: str) -> None:
        for token in self._runs:
            lease = self._leases.get(token)
            if lease is not None and lease.trajectory == trajectory:
                raise PermanentError(
                    f"action {lease.action!r} runs in this trajectory: wait for its end",
                    field="trajectory",
                )

    def _choose(self, amount: int, purpose: str) -> tuple[int, ...]:
        if amount > len(self._free):
            self._violated(f"{purpose} needs {amount} cores, {len(self._free)} are free")
        chosen = tuple(sorted(self._free))[: max(0, amount)]
        self._free.difference_update(chosen)
        return chosen

    def _break(self, token: int, message: str) -> None:
        if running := self._runs.get(token):
            running.lost = message
            running.task.cancel()

    def _give_back(self, token: int) -> None:
        if lease := self._leases.pop(token, None):
            self._free.update(lease.cores)

    def _violated(self, message: str) -> None:
        self.violations.append(message)
        raise RuntimeError(message)
