"""Keeping and restoring files at the CpuManager: what a failure on the way leaves, and the disk that
all take together. Sandboxes are scripted; real ones pass the contract suite.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tangram.managers.base import Outcome, SandboxSpec
from tangram.managers.config import NodeConfig
from tangram.managers.cpu import watch
from tangram.managers.errors import (
    PermanentError,
    SandboxClosed,
    SandboxDied,
    TemporaryError,
    Unsupported,
)
from tangram.managers.opening import open_cpu_manager
from tests.managers.test_cpu_manager import Bench
from tests.waiting import until

GIB = 1 << 30


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.manager.aclose()
    assert bench.pool.free == 4


async def kept(bench: Bench) -> None:
    await bench.manager.keep_files("t1", "s", GIB)


async def test_a_restore_puts_a_fresh_sandbox_in_the_place_of_the_old(bench: Bench) -> None:
    old = await bench.open()
    await kept(bench)
    await bench.manager.restore_files("t1", "s")
    old, fresh = bench.launcher.started
    assert (old.closed, fresh.closed) == (1, 0)
    lease = await bench.acquire(1)
    assert (old.confined, fresh.confined) == ([], [lease.cores])
    old.die("long gone")
    assert bench.lost == []
    fresh.die("now")
    assert bench.lost == ["now"]


async def test_a_restore_that_cannot_start_leaves_the_sandbox_as_it_was(bench: Bench) -> None:
    sandbox = await bench.open()
    await kept(bench)
    bench.launcher.start_error = TemporaryError("no room")
    with pytest.raises(TemporaryError, match="no room"):
        await bench.manager.restore_files("t1", "s")
    lease = await bench.acquire(1)
    assert (sandbox.closed, sandbox.confined, bench.lost) == (0, [lease.cores], [])


async def test_what_is_granted_meanwhile_waits_for_the_restored_sandbox(bench: Bench) -> None:
    old = await bench.open()
    await kept(bench)
    bench.launcher.start_gate.clear()
    restoring = asyncio.create_task(bench.manager.restore_files("t1", "s"))
    await until(lambda: bench.launcher.starting)
    acquiring = asyncio.create_task(bench.acquire(1))
    bench.launcher.start_gate.set()
    await restoring
    lease = await acquiring
    assert (old.confined, bench.launcher.started[-1].confined) == ([], [lease.cores])


async def test_closing_under_a_restore_ends_both_sandboxes(bench: Bench) -> None:
    await bench.open()
    await kept(bench)
    bench.launcher.start_gate.clear()
    restoring = asyncio.create_task(bench.manager.restore_files("t1", "s"))
    await until(lambda: bench.launcher.starting)
    closing = asyncio.create_task(bench.manager.close("t1"))
    await until(lambda: bench.launcher.started[0].closed)
    bench.launcher.start_gate.set()
    with pytest.raises(SandboxClosed):
        await restoring
    await closing
    assert [sandbox.closed for sandbox in bench.launcher.started] == [1, 1]


async def test_a_sandbox_that_dies_under_a_restore_is_lost(bench: Bench) -> None:
    old = await bench.open()
    await kept(bench)
    bench.launcher.start_gate.clear()
    restoring = asyncio.create_task(bench.manager.restore_files("t1", "s"))
    await until(lambda: bench.launcher.starting)
    old.die("its agent ended")
    bench.launcher.start_gate.set()
    with pytest.raises(SandboxDied, match="its agent ended"):
        await restoring
    assert bench.lost == ["its agent ended"]
    assert bench.launcher.started[-1].closed == 1


async def test_a_caller_that_goes_away_leaves_no_half_restored_sandbox(bench: Bench) -> None:
    await bench.open()
    await kept(bench)
    bench.launcher.start_gate.clear()
    restoring = asyncio.create_task(bench.manager.restore_files("t1", "s"))
    await until(lambda: bench.launcher.starting)
    restoring.cancel()
    await asyncio.wait([restoring])
    bench.launcher.start_gate.set()
    await until(lambda: bench.launcher.started[0].closed)
    lease = await bench.acquire(1)
    assert bench.launcher.started[-1].confined == [lease.cores]


async def test_files_can_be_kept_before_an_ended_actions_lease_is_back(bench: Bench) -> None:
    sandbox = await bench.open()
    lease = await bench.acquire(1)
    with pytest.raises(PermanentError, match="a1"):
        await kept(bench)
    running = bench.run(lease)
    await until(lambda: sandbox.scripted.runs)
    with pytest.raises(PermanentError, match="a1"):
        await kept(bench)
    sandbox.scripted.finish("a1", Outcome.FINISHED, 0)
    await running
    await kept(bench)
    await bench.manager.release(lease)
    with pytest.raises(PermanentError, match="already"):
        await kept(bench)


# The disk of the node


async def test_files_are_kept_as_far_as_the_nodes_disk_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "IDLE_PERIOD_S", 0.001)
    sandbox = await bench.open()
    sandbox.disk_bytes = 6 * GIB
    looks = sandbox.looks
    await until(lambda: sandbox.looks > looks + 1)
    bench.launcher.kept = 4 * GIB
    await bench.manager.keep_files("t1", "a", 3 * GIB)
    await bench.manager.keep_files("t1", "b", 100 * GIB)
    assert sandbox.kept_limits == [3 * GIB, 10 * GIB]
    bench.launcher.kept = 14 * GIB
    with pytest.raises(PermanentError, match="whole disk of 20Gi") as refused:
        await bench.manager.keep_files("t1", "c", GIB)
    assert refused.value.field == "disk"


async def test_of_all_that_take_too_much_together_the_largest_makes_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "IDLE_PERIOD_S", 0.001)
    small, large = await bench.open("t1"), await bench.open("t2")
    small.disk_bytes, large.disk_bytes = 4 * GIB, 8 * GIB
    looks = small.looks
    await until(lambda: small.looks > looks + 2)
    assert bench.lost == []
    bench.launcher.kept = 9 * GIB
    await until(lambda: large.closed)
    assert "drop snapshots" in bench.lost[0]
    looks = small.looks
    await until(lambda: small.looks > looks + 2)
    assert (len(bench.lost), small.closed) == (1, 0)


async def test_a_launcher_that_cannot_keep_files_says_which_can() -> None:
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        config = NodeConfig(
            instance="keep",
            launcher="process",
            unsafe=True,
            state=Path(folder, "s"),
            runtime=Path(folder, "r"),
        )
        manager = await open_cpu_manager(config)
        await manager.open(await manager.check_open(SandboxSpec("t")), 1, lambda message: None)
        with pytest.raises(Unsupported, match="bubblewrap or docker"):
            await manager.keep_files("t", "s", GIB)
        await manager.aclose()
