"""What sandboxes that stand ready save, how fast they start when none does, and what idle ones cost.

All against a server of its own. A trajectory counts from its Open to the result of its first command,
at the SDK; the cold ones differ in their /dev/shm, which no started sandbox can change. Memory is the
proportional share (PSS) of all processes of the sandboxes, with what they made the server grow; their
CPU time is what the kernel counts for those processes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from tangram import AsyncClient
from tangram.client import AsyncTrajectory

from .measure import Row, Spread, Table, percentile, ratio
from .servers import IMAGE, tangram_server

OPENS = 20
"""Warm trajectories of a run, one after the other."""
COLD = 24
"""Trajectories that come at once and find nothing ready."""
IDLE = 500
IDLE_S = 5.0
"""For which idle sandboxes are watched."""
SETTLE_S = 2.0
"""After the last one started, for spare processes to be forked."""
IMAGES: dict[str, str | None] = {"bubblewrap": None, "Docker": IMAGE}


async def measure(runs: int) -> Table:
    rows: list[Row] = []
    with tangram_server() as address:
        async with AsyncClient(address) as client:
            for name, image in IMAGES.items():
                found = [await _warm(client, image) for _ in range(runs)]
                first, steady, prepare = zip(*found, strict=True)
                rows += [
                    Row(f"{name}: Open to first result, p50", Spread(first).text("ms"), "<= 5 ms"),
                    Row(f"{name}: of which `prepare`, p50", Spread(prepare).text("ms"), "near 0"),
                    Row(f"{name}: a later command, p50", Spread(steady).text("ms")),
                    Row(
                        f"{name}: first result over a later command",
                        ratio(Spread(first), Spread(steady)).text("x", 1),
                    ),
                ]
            for name, image in IMAGES.items():
                rates = [await _cold(client, image, run) for run in range(runs)]
                rows.append(
                    Row(
                        f"{name}: cold starts, {COLD} at once",
                        Spread(tuple(rates)).text("per s", 1),
                        ">= 5 per s",
                    )
                )
    rows += await _idle()
    return Table(
        "Sandboxes that stand ready",
        f"{runs} runs of {OPENS} warm trajectories one after the other, and of {COLD} cold ones at "
        f"once; {IDLE} idle sandboxes watched for {IDLE_S:g} s, once. Median of the runs (min - max).",
        tuple(rows),
    )


async def _warm(client: AsyncClient, image: str | None) -> tuple[float, float, float]:
    """p50 of Open to first result, of a later command, and of `prepare`, in milliseconds."""
    first, later, prepare = [], [], []
    async with client.trajectory(image, memory="256Mi") as trajectory:
        await trajectory.exec(["true"])
    for _ in range(OPENS):
        await _until_ready(client, image)
        start = time.perf_counter()
        async with client.trajectory(image, memory="256Mi") as trajectory:
            result = await trajectory.exec(["true"])
            between = time.perf_counter()
            await trajectory.exec(["true"])
            later.append((time.perf_counter() - between) * 1000)
        first.append((between - start) * 1000)
        prepare.append(result.timing.prepare * 1000)
    return percentile(first, 0.5), percentile(later, 0.5), percentile(prepare, 0.5)


async def _until_ready(client: AsyncClient, image: str | None) -> None:
    """Until all that are wanted stand ready, so that no start takes the time of what is measured."""
    while True:
        warm = [w for n in (await client.status()).nodes for w in n.warm]
        busy = sum(w.starting for w in warm)
        if not busy and any(w.ready for w in warm if w.image == (image or "")):
            return
        await asyncio.sleep(0.02)


async def _cold(client: AsyncClient, image: str | None, run: int) -> float:
    """Sandboxes per second from the first Open until all can be used."""
    sizes = [(run * COLD + n + 1) << 12 for n in range(COLD)]
    trajectories = [client.trajectory(image, memory="64Mi", shm=(1 << 20) + s) for s in sizes]
    start = time.perf_counter()
    try:
        await asyncio.gather(*(trajectory.wait_ready() for trajectory in trajectories))
        return COLD / (time.perf_counter() - start)
    finally:
        await asyncio.gather(*(trajectory.close() for trajectory in trajectories))


async def _idle() -> list[Row]:
    with tangram_server("--launcher", "bubblewrap") as address:
        server = _server_process(address)
        before = server.memory_info().rss
        async with _open_trajectories(address, IDLE):
            await asyncio.sleep(SETTLE_S)
            inside = [
                child for child in server.children(recursive=True) if child.status() != "zombie"
            ]
            busy_before = sum(map(_cpu_ticks, (p.pid for p in inside)))
            await asyncio.sleep(IDLE_S)
            busy = sum(map(_cpu_ticks, (p.pid for p in inside))) - busy_before
            pss = sum(_pss_bytes(process.pid) for process in inside)
            grown = server.memory_info().rss - before
    each = (pss + grown) / IDLE / (1 << 20)
    share = busy / os.sysconf("SC_CLK_TCK") / IDLE_S * 100
    return [
        Row(f"{IDLE} idle bubblewrap sandboxes, memory each", f"{each:.2f} MiB", "<= 6 MiB"),
        Row("of which in the server", f"{grown / IDLE / (1 << 20):.2f} MiB"),
        Row("their CPU time while idle, together", f"{share:.2f} % of a core", "none"),
    ]


@asynccontextmanager
async def _open_trajectories(address: str, count: int) -> AsyncIterator[None]:
    async with AsyncClient(address) as client, AsyncExitStack() as stack:
        trajectories = [client.trajectory(memory="16Mi", shm="1Mi") for _ in range(count)]
        stack.push_async_callback(_close_all, trajectories)
        await asyncio.gather(*(trajectory.wait_ready() for trajectory in trajectories))
        yield


async def _close_all(trajectories: list[AsyncTrajectory]) -> None:
    await asyncio.gather(*(trajectory.close() for trajectory in trajectories))


def _server_process(address: str) -> psutil.Process:
    """The one that listens there."""
    port = int(address.rpartition(":")[2])
    for child in psutil.Process().children():
        if any(c.laddr.port == port for c in child.net_connections("tcp")):
            return child
    raise RuntimeError(f"no child of this process listens on {address}")


def _pss_bytes(pid: int) -> int:
    for line in _lines(Path(f"/proc/{pid}/smaps_rollup")):
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_ticks(pid: int) -> int:
    for line in _lines(Path(f"/proc/{pid}/stat")):
        fields = line.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return  # It ended.
