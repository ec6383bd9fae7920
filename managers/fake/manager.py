"""The fake manager: leases and sandboxes with all a real node's promises, and knobs to break them.

It checks its caller as well: a core granted twice, more memory than there is, or a token used
twice raises RuntimeError and is remembered in `violations`.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ...scheduler.model import CORES, MEMORY, Capacity, ResourceId
from ..base import (
    ExecSpec,
    FileInfo,
    KeptFiles,
    Lease,
    Manager,
    NodeDescription,
    Outcome,
    OutputSink,
    RunRequest,
    RunResult,
    SandboxInfo,
    SandboxSpec,
    Stream,
    WarmStatus,
)
from ..errors import (
    FileProblem,
    LeaseLost,
    PermanentError,
    SandboxClosed,
    SandboxDied,
    UnknownImage,
)
from ..tar_stream import TAR_END, from_tar, to_tar
from .commands import CutStream, Died, Run, execute
from .files import FakeFiles

Call = Literal[
    "check_open", "open", "close", "acquire", "run", "kill", "resize", "release", "file",
    "keep", "discard", "restore",
]  # fmt: skip

WORKDIR = "/workspace"
CHUNK_BYTES = 1 << 20
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
class _Sandbox:
    spec: SandboxSpec
    on_lost: Callable[[str], None]
    files: FakeFiles = field(default_factory=lambda: FakeFiles(WORKDIR))
    processes: list[str] = field(default_factory=list)
    ready: bool = False
    lost: str = ""


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[RunResult]
    lost: str = ""


class FakeManager(Manager):
    """One node of `cores` cores and `memory_bytes`, with a SandboxHost's abilities.

    Time is the event loop's: on a loop with virtual time `sleep 60` takes none.
    """

    def __init__(
        self,
        node: str = "node0",
        *,
        cores: int = 2,
        memory_bytes: int = 8 << 30,
        images: frozenset[str] | None = None,
    ) -> None:
        """`images` are those that can be had; None means any."""
        self.node = node
        self.faults = Faults()
        self.calls: list[tuple[Call, str]] = []
        """Every call with its action or trajectory, in order."""
        self.violations: list[str] = []
        """What the caller did that no caller may: empty at the end of every test."""
        self._cores = ResourceId(CORES, node)
        self._memory = ResourceId(MEMORY, node)
        self._images = images
        self._total_cores, self._total_memory = cores, memory_bytes
        self._free = set(range(cores))
        self._sandboxes: dict[str, _Sandbox] = {}
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
        self._sandboxes.clear()
        for token in list(self._leases):
            self._give_back(token)

    # SandboxHost

    async def check_open(self, spec: SandboxSpec) -> SandboxSpec:
        await self._enter("check_open", spec.trajectory)
        if self._images is not None and spec.image and spec.image not in self._images:
            raise UnknownImage(spec.image, f"there is no image {spec.image!r} on {self.node}")
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
        sandbox = self._sandboxes[spec.trajectory] = _Sandbox(spec, on_lost)
        try:
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
            raise
        sandbox.ready = True
        return SandboxInfo(spec.trajectory, "fake", spec.workdir or WORKDIR, LIMITS)

    async def close(self, trajectory: str) -> None:
        await self._enter("close", trajectory)
        if self._sandboxes.pop(trajectory, None) is None:
            return
        for token in [t for t, lease in self._leases.items() if lease.trajectory == trajectory]:
            self._break(token, "its sandbox was closed")
            self._give_back(token)

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

    # Inside

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
        run = self._prepare(lease, spec, sandbox, output)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            result = await _finish(execute(run), request.timeout_s)
        finally:
            for stream in (run.stdout, run.stderr):
                stream.finish()
        return replace(
            result,
            run_s=loop.time() - began,
            stdout_bytes=run.stdout.produced,
            stderr_bytes=run.stderr.produced,
        )

    def _prepare(self, lease: Lease, spec: ExecSpec, sandbox: _Sandbox, output: OutputSink) -> Run:
        granted = str(len(lease.cores))
        own = {"TANGRAM_CORES": granted, "OMP_NUM_THREADS": granted}
        workdir = sandbox.spec.workdir or WORKDIR
        return Run(
            spec=spec,
            cwd=spec.cwd if spec.cwd.startswith("/") else f"{workdir}/{spec.cwd}".rstrip("/"),
            env={**own, **sandbox.spec.env, **spec.env},
            files=sandbox.files,
            cores=lambda: len(self._leases.get(lease.token, lease).cores),
            stdout=CutStream(Stream.STDOUT, output, spec.max_output_bytes),
            stderr=CutStream(Stream.STDERR, output, spec.max_output_bytes),
            gate=self.gate,
            processes=sandbox.processes,
        )

    async def _file_call(self, trajectory: str) -> _Sandbox:
        await self._enter("file", trajectory)
        return self._usable(trajectory)

    def _usable(self, trajectory: str | None) -> _Sandbox:
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


async def _finish(command: Coroutine[Any, Any, int], timeout_s: float | None) -> RunResult:
    try:
        async with asyncio.timeout(timeout_s):
            return RunResult(Outcome.FINISHED, exit_code=await command)
    except TimeoutError:
        return RunResult(Outcome.TIMED_OUT, exit_code=-9, signal=9)
    except Died as death:
        return RunResult(death.outcome, exit_code=-death.signal, signal=death.signal)
