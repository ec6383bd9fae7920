"""Changing the cores of a live Docker sandbox: a write to its cgroup against `docker update`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tangram.managers.base import Lease, SandboxSpec
from tangram.managers.config import NodeConfig
from tangram.managers.cpu.manager import CpuManager
from tangram.managers.opening import open_cpu_manager
from tangram.scheduler import ResourceId

from .measure import Row, Spread, Table, latencies_ms, percentile, ratio
from .servers import IMAGE, docker_container

CALLS = 200
SLOW_CALLS = 20


async def measure(runs: int) -> Table:
    direct: list[float] = []
    update: list[float] = []
    with tempfile.TemporaryDirectory(prefix="tangram-bench-") as folder:
        config = NodeConfig(
            instance="bench", state=Path(folder) / "state", runtime=Path(folder) / "run"
        )
        manager = await open_cpu_manager(config)
        async with docker_container() as container:
            try:
                spec = await manager.check_open(SandboxSpec("t", image=IMAGE))
                await manager.open(spec, 1, lambda message: None)
                cores = ResourceId("cores", manager.node)
                lease = await manager.acquire("a", "t", 2, {cores: 1})
                for _ in range(runs):
                    direct.append(await _resizes_ms(manager, lease, cores))
                    samples = await latencies_ms(
                        lambda: asyncio.to_thread(container.update, cpuset_cpus="0"), SLOW_CALLS
                    )
                    update.append(percentile(samples, 0.5))
            finally:
                await manager.aclose()
    ours, theirs = Spread(tuple(direct)), Spread(tuple(update))
    return Table(
        "Changing the cores of a live sandbox",
        f"One core and two in turns, at the node's manager; {runs} runs of {CALLS} changes "
        f"({SLOW_CALLS} of `docker update`), median of the runs' p50 (min - max).",
        (
            Row("Tangram, cpuset, quota and weight", ours.text("ms", 3), "<= 0.2 ms"),
            Row("`docker update` through the Docker SDK", theirs.text("ms", 1)),
            Row("Tangram faster by", ratio(theirs, ours).text("x", 0)),
        ),
    )


async def _resizes_ms(manager: CpuManager, lease: Lease, cores: ResourceId) -> float:
    sizes = iter(range(CALLS))

    async def resize() -> None:
        nonlocal lease
        lease = await manager.resize(lease, {cores: 2 - next(sizes) % 2})

    return percentile(await latencies_ms(resize, CALLS), 0.5)
