"""Background processes of trajectories: started, followed and stopped by calls that are no actions.

What a process wrote is kept here, bounded, by offset; it runs in its trajectory's sandbox and ends with
that. Nothing here knows the wire.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from ..errors import AlreadyExists, FailedPrecondition, Internal, NotFound, TangramError
from ..managers.base import ExecSpec, Outcome, RunResult, SandboxHost, Stream
from ..managers.errors import ManagerError, SandboxClosed
from .failures import from_manager
from .known_files import KnownFiles
from .outputs import OutputStore

log = logging.getLogger(__name__)

PROCESSES_MAX = 32
"""Running ones of a trajectory: each has two processes of its sandbox, and output that is kept."""
OUTPUT_BYTES = 1 << 20
"""Kept of one's output, half from the head, half from the tail: a server's start and its last words."""
ENDED_MAX = 1000
"""Ended ones that are kept over all trajectories; the oldest are forgotten."""

Host = Callable[[str], Awaitable[SandboxHost]]


@dataclass(eq=False, slots=True)
class Process:
    """One process, running or ended."""

    trajectory: str
    id: str
    spec: ExecSpec
    output: OutputStore = field(default_factory=lambda: OutputStore(OUTPUT_BYTES))
    result: RunResult | None = None
    error: TangramError | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        return not self.ended.is_set()


class Processes:
    """All of them, of all trajectories."""

    def __init__(self, host: Host) -> None:
        """`host` gives a trajectory's host once its sandbox is ready, or raises TangramError."""
        self._host = host
        self._processes: dict[tuple[str, str], Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self, trajectory: str, process_id: str, spec: ExecSpec, files: KnownFiles | None
    ) -> Process:
        """Start it, or find it: the same id again, with the same command, is the same process. While
        it runs nothing is known of its sandbox's `files`.

        Raises AlreadyExists, FailedPrecondition (too many run), and as `host` does.
        """
        host = await self._host(trajectory)
        known = self._processes.get((trajectory, process_id))
        if known is not None:
            if known.spec != spec:
                raise AlreadyExists(
                    f"process {process_id!r} exists already with another command; use another id",
                    field="id",
                )
            return known
        running = sum(p.running for p in self._processes.values() if p.trajectory == trajectory)
        if running >= PROCESSES_MAX:
            raise FailedPrecondition(
                f"{PROCESSES_MAX} background processes of trajectory {trajectory!r} run already: "
                "stop one of them"
            )
        process = Process(trajectory, process_id, spec)
        self._processes[trajectory, process_id] = process
        if files is not None:
            files.begin_change()
        task = asyncio.create_task(self._run(host, process, files), name=f"process {process_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return process

    async def find(self, trajectory: str, process_id: str) -> Process:
        """Raises NotFound, and as `host` does."""
        await self._host(trajectory)
        process = self._processes.get((trajectory, process_id))
        if process is None:
            raise NotFound(f"trajectory {trajectory!r} has no process {process_id!r}", field="id")
        return process

    async def read(self, process: Process, offset: int, wait_s: float) -> tuple[int, bytes]:
        """What it wrote at or after `offset`, waited for as long as it runs; empty when the time has
        passed, or it has ended and wrote no more."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    closed = process.output.closed
                    start, data = process.output.read(Stream.STDOUT, offset)
                    if data or closed:
                        return start, data
                    await process.output.changed()
        except TimeoutError:
            return process.output.read(Stream.STDOUT, offset)

    async def stop(self, process: Process, grace_s: float) -> None:
        """Ask it to end, and after `grace_s` kill it with all that it started. Returns when it has
        ended. Idempotent."""
        host = await self._host(process.trajectory)
        if grace_s and process.running:
            await host.end_process(process.trajectory, process.id, force=False)
            await ended_within(process, grace_s)
        if process.running:
            await host.end_process(process.trajectory, process.id, force=True)
        await process.ended.wait()

    async def _run(self, host: SandboxHost, process: Process, files: KnownFiles | None) -> None:
        try:
            result = await host.run_process(
                process.trajectory, process.id, process.spec, process.output
            )
            # Being stopped is an end like any other: the signal tells it.
            process.result = replace(result, outcome=Outcome.FINISHED)
            process.output.finish(result.stdout_bytes)
        except ManagerError as error:
            process.error = from_manager(error)
            if isinstance(error, SandboxClosed):
                self._processes.pop((process.trajectory, process.id), None)
        except Exception:
            log.exception("process %s of %s failed", process.id, process.trajectory)
            process.error = Internal("the server failed at running it; its log says why")
        finally:
            if files is not None:
                files.end_change()
            process.output.finish()
            process.ended.set()
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        ended = [key for key, process in self._processes.items() if not process.running]
        for key in ended[: max(0, len(ended) - ENDED_MAX)]:
            del self._processes[key]


async def ended_within(process: Process, wait_s: float) -> None:
    """Wait for its end, at most so long; passing the time is no error."""
    try:
        async with asyncio.timeout(wait_s):
            await process.ended.wait()
    except TimeoutError:
        return
