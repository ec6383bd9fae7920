"""What the tests of managers share: a node to run commands on, and what came out of a run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from tangram.managers.base import (
    ExecSpec,
    Lease,
    Manager,
    RunRequest,
    RunResult,
    SandboxHost,
    SandboxSpec,
    Stream,
)
from tangram.managers.tar_stream import MORE, TAR_END, Piece, from_tar, to_tar
from tangram.scheduler.model import CORES, ResourceId
from tests.managers.contract.commands import Argv, Commands
from tests.waiting import until

WAIT_S = 10.0
"""For anything that a test waits for: far above what it takes on a busy machine."""

_NUMBERS = itertools.count(1)


def unique(prefix: str) -> str:
    return f"{prefix}{next(_NUMBERS)}"


@dataclass
class Recorder:
    """An output sink that keeps all it is given, and notes what breaks the sink's promise."""

    pieces: dict[Stream, list[tuple[int, bytes]]] = field(
        default_factory=lambda: {stream: [] for stream in Stream}
    )
    broken: list[str] = field(default_factory=list)
    wrote: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, stream: Stream, offset: int, data: bytes) -> None:
        if self.pieces[stream]:
            last_offset, last = self.pieces[stream][-1]
            if offset < last_offset + len(last):
                self.broken.append(f"{stream} went back to {offset}")
        self.pieces[stream].append((offset, data))
        self.wrote.set()

    def kept(self, stream: Stream) -> bytes:
        assert self.broken == []
        return b"".join(data for _, data in self.pieces[stream])

    def until_gap(self, stream: Stream) -> tuple[bytes, bytes]:
        """What was kept before the first cut, and after it."""
        head, tail, end = bytearray(), bytearray(), 0
        for offset, data in self.pieces[stream]:
            (tail if tail or offset != end else head).extend(data)
            end = offset + len(data)
        return bytes(head), bytes(tail)


@dataclass(frozen=True)
class Ran:
    """One whole action: acquired, run, released."""

    result: RunResult
    output: Recorder
    lease: Lease

    @property
    def stdout(self) -> bytes:
        return self.output.kept(Stream.STDOUT)

    @property
    def stderr(self) -> bytes:
        return self.output.kept(Stream.STDERR)


class Node:
    """A manager with sandboxes, and the commands that these understand."""

    def __init__(
        self, kind: str, manager: Manager, commands: Commands, image: str, free: Callable[[], int]
    ) -> None:
        assert isinstance(manager, SandboxHost)
        self.kind = kind
        self.manager = manager
        self.host: SandboxHost = manager
        self.commands = commands
        self.image = image
        self.free_cores = free
        self.opened: list[str] = []
        self.opens = 0
        """Sandboxes that were opened since `warm_up`, each of which stood ready."""
        self.limits: Mapping[str, str] = {}
        self._standing: asyncio.Lock | None = None

    @property
    def cores(self) -> int:
        return next(c.total for c in self.manager.capacities() if c.resource.kind == CORES)

    async def open(
        self,
        on_lost: Callable[[str], None] = lambda message: None,
        *,
        env: dict[str, str] | None = None,
        disk_bytes: int | None = None,
        snapshot: str = "",
        concurrency: int = 1,
        image: str | None = None,
        shell: tuple[str, ...] = (),
    ) -> str:
        """A new sandbox; the trajectory's id."""
        trajectory = unique("t")
        spec = SandboxSpec(
            trajectory,
            image=self.image if image is None else image,
            shell=shell,
            memory_bytes=256 << 20,
            disk_bytes=disk_bytes,
            env=env or {},
            snapshot=snapshot,
            concurrency=concurrency,
        )
        filled = await self.host.check_open(spec)
        if self._standing is None:
            info = await self.host.open(filled, next(_NUMBERS), on_lost)
        else:
            async with self._standing:
                await until(lambda: any(status.ready for status in self.host.warm()))
                info = await self.host.open(filled, next(_NUMBERS), on_lost)
                self.opens += not snapshot
        self.limits = info.limits
        self.opened.append(trajectory)
        return trajectory

    async def warm_up(self) -> None:
        """From now on every sandbox stands ready before it is opened."""
        await self.host.close(await self.open())
        self.opened.clear()
        self._standing = asyncio.Lock()

    async def acquire(self, trajectory: str, cores: int = 1) -> Lease:
        return await self.manager.acquire(
            unique("a"), trajectory, next(_NUMBERS), self.amounts(cores)
        )

    def amounts(self, cores: int) -> dict[ResourceId, int]:
        return {ResourceId(CORES, self.manager.node): cores}

    async def run(
        self,
        lease: Lease,
        command: Argv | ExecSpec,
        *,
        timeout_s: float | None = WAIT_S,
        output: Recorder | None = None,
    ) -> RunResult:
        spec = command if isinstance(command, ExecSpec) else ExecSpec(argv=command)
        request = RunRequest(lease.action, spec, timeout_s)
        return await self.manager.run(lease, request, output or Recorder())

    async def execute(
        self,
        trajectory: str,
        command: Argv | ExecSpec,
        *,
        cores: int = 1,
        timeout_s: float | None = WAIT_S,
    ) -> Ran:
        lease = await self.acquire(trajectory, cores)
        output = Recorder()
        try:
            result = await self.run(lease, command, timeout_s=timeout_s, output=output)
        finally:
            await self.manager.release(lease)
        return Ran(result, output, lease)

    async def read(self, trajectory: str, path: str, offset: int = 0, limit: int = 0) -> bytes:
        chunks = [data async for data, _ in self.host.read_file(trajectory, path, offset, limit)]
        return b"".join(chunks)

    async def write(self, trajectory: str, path: str, data: bytes, mode: int = 0o644) -> int:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        return await self.host.write_file(trajectory, path, mode, chunks())

    async def read_tree(self, trajectory: str, path: str) -> dict[str, Piece]:
        """Whole entries by name."""
        found: dict[str, Piece] = {}
        async for portion in from_tar(self.host.read_tree(trajectory, path)):
            for piece in portion:
                before = found.get(piece.name, piece)
                data = before.data + piece.data if piece.kind == MORE else piece.data
                found[piece.name] = replace(before, data=data, last=True)
        return found

    async def write_tree(
        self, trajectory: str, path: str, pieces: Iterable[Piece]
    ) -> tuple[int, int]:
        async def chunks() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield to_tar(piece)
            yield TAR_END

        return await self.host.write_tree(trajectory, path, chunks())
