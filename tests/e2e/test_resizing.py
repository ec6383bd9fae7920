"""Malleable actions over real sandboxes: their cores change while they run, and are nobody else's.

The server runs in this process, so that a test can ask for other amounts when it wants to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tangram import AsyncClient
from tangram.client import AsyncTrajectory
from tangram.config import ServerConfig
from tangram.errors import Cancelled
from tangram.scheduler import ResourceId
from tangram.server.app import Server
from tests.waiting import until

WATCH = """
unset OMP_NUM_THREADS
while [ ! -e stop ]; do
    nproc > seen.new
    cat /sys/devices/system/cpu/online >> seen.new
    grep Cpus_allowed_list /proc/self/status | cut -f2 >> seen.new
    mv seen.new seen
    sleep 0.01
done
"""
"""Says how many cores it has, and twice which, for as long as it runs. `nproc` prefers the variable,
which has the number of cores at the start."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    config = ServerConfig.model_validate(
        {
            "listen": "127.0.0.1:0",
            "http": "127.0.0.1:0",
            "state": tmp_path / "state",
            "sandbox": {"memory": "256Mi", "disk": "256Mi"},
        }
    )
    server = Server(config)
    await server.start()
    yield server
    server.scheduler.check_invariants()
    await server.aclose()


@pytest.fixture
async def pool(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc_address) as client:
        (node,) = (await client.status()).nodes
        if node.cores.total < 2:
            pytest.skip("this machine has one core")
        yield client


async def resize(server: Server, action: str, cores: int) -> None:
    await server.dispatcher.resize(action, {ResourceId("cores", "node0"): cores})


async def sees(trajectory: AsyncTrajectory, cores: int) -> set[int]:
    """Wait until what runs there has so many cores by all accounts; returns which."""

    async def seen() -> set[int] | None:
        if "seen" not in {file.name for file in await trajectory.list_files()}:
            return None
        counted, online, allowed = (await trajectory.read_text("seen")).split()
        ids = _cores(allowed)
        return ids if _cores(online) == ids and int(counted) == len(ids) == cores else None

    found: set[int] = await until(seen)
    return found


def _cores(listed: str) -> set[int]:
    """ "0-2,5" -> {0, 1, 2, 5}"""
    ids: set[int] = set()
    for part in listed.split(","):
        low, _, high = part.partition("-")
        ids |= set(range(int(low), int(high or low) + 1))
    return ids


async def test_a_malleable_action_shrinks_for_another_and_grows_when_that_has_ended(
    server: Server, pool: AsyncClient, image: str | None
) -> None:
    most = (await pool.status()).nodes[0].cores.total
    async with pool.trajectory(image) as wide, pool.trajectory(image) as narrow:
        await asyncio.gather(wide.wait_ready(), narrow.wait_ready())
        choice = (1, most)
        watching = asyncio.create_task(wide.exec(WATCH, cores=choice, malleable=True, id="wide"))
        alone = await sees(wide, 1)
        await resize(server, "wide", most)
        assert alone < await sees(wide, most)
        other = asyncio.create_task(narrow.exec(WATCH, id="narrow"))
        await until(lambda: [info for info in server.dispatcher.records() if info.id == "narrow"])
        assert server.dispatcher.record("narrow").state == "waiting"
        await resize(server, "wide", most - 1)
        others = await sees(narrow, 1)
        left = await sees(wide, most - 1)
        assert not left & others
        await narrow.write_file("stop", "")
        assert (await other).ok
        await until(lambda: server.scheduler.view(ResourceId("cores", "node0")).free(0.0) == 1)
        await resize(server, "wide", most)
        assert others < await sees(wide, most)
        await wide.write_file("stop", "")
        result = await watching
        assert result.ok
        assert result.cores == 1
        story = await pool.explain("wide")
        changes = [entry.detail for entry in story.history if entry.name == "Resized"]
        fewer = f"{most - 1} core{'s' if most > 2 else ''}"
        assert changes == [f"grew to {most} cores", f"shrank to {fewer}", f"grew to {most} cores"]


@pytest.mark.parametrize("end", ["ends", "is killed", "is closed"])
async def test_an_action_that_ends_while_it_is_resized_leaves_every_core_free(
    server: Server, pool: AsyncClient, image: str | None, end: str
) -> None:
    cores = ResourceId("cores", "node0")
    most = (await pool.status()).nodes[0].cores.total
    async with pool.trajectory(image) as trajectory:
        running = asyncio.create_task(
            trajectory.exec(WATCH, cores=(1, most), malleable=True, id="wide")
        )
        await sees(trajectory, 1)
        if end == "ends":
            await trajectory.write_file("stop", "")
        for amount in (most, 1, most):
            await resize(server, "wide", amount)
        if end == "is killed":
            await pool.cancel(action="wide")
        elif end == "is closed":
            await trajectory.close()
        await asyncio.wait([running])
        await until(lambda: server.scheduler.view(cores).free(0.0) == most)
        if end == "ends":
            assert running.result().cores == 1
        else:
            assert isinstance(running.exception(), Cancelled)
    async with pool.trajectory(image) as again:
        assert (await again.exec("nproc", cores=most)).stdout.strip() == str(most)
