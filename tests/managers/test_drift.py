"""Cores changed behind our back, as systemd and `docker update` do, are put right and counted."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest

from tangram.managers.base import SandboxSpec
from tangram.managers.config import NodeConfig, WarmConfig
from tangram.managers.cpu import drift
from tangram.managers.cpu.manager import CpuManager
from tangram.managers.opening import open_cpu_manager
from tangram.scheduler.model import CORES, ResourceId
from tests.managers.sandboxes import short_folder
from tests.waiting import until

CGROUPS = Path("/sys/fs/cgroup")
WRITABLE = os.geteuid() == 0 and len(os.sched_getaffinity(0)) > 1
pytestmark = pytest.mark.skipif(not WRITABLE, reason="needs root and two cores")


@pytest.fixture(params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)])
async def manager(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[CpuManager]:
    monkeypatch.setattr(drift, "PERIOD_S", 0.02)
    folder = short_folder()
    config = NodeConfig(
        launcher=request.param,
        instance=f"drift-{request.param}-{os.getpid()}",
        warm=WarmConfig(max=0),
        state=folder / "state",
        runtime=folder / "run",
    )
    manager = await open_cpu_manager(config)
    image = request.getfixturevalue("docker_image") if request.param == "docker" else ""
    try:
        await manager.open(SandboxSpec("t", image=image), 1, lambda message: None)
        yield manager
    finally:
        await manager.aclose()
        shutil.rmtree(folder)


def cpusets(manager: CpuManager) -> list[Path]:
    """The control files of this node's sandboxes."""
    name = f"tangram-{manager._config.instance}"
    return [*CGROUPS.glob(f"cpuset/{name}/*/cpuset.cpus"), *CGROUPS.glob(f"{name}/*/cpuset.cpus")]


async def test_a_lease_gets_its_cores_back_and_the_correction_counts(manager: CpuManager) -> None:
    amounts = {ResourceId(CORES, manager.node): 1}
    lease = await manager.acquire("a", "t", 7, amounts)
    (file,) = cpusets(manager)
    assert file.read_text().strip() == str(lease.cores[0])
    both = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    if manager._config.launcher == "docker":
        engine = docker.from_env()
        engine.containers.get(file.parent.name).update(cpuset_cpus=both)
        engine.close()
    else:
        file.write_text(both)
    await until(lambda: manager.corrections().get("cpuset.cpus", 0) > 0)
    assert file.read_text().strip() == str(lease.cores[0])
    await manager.release(lease)


async def test_what_nobody_changed_is_not_corrected(manager: CpuManager) -> None:
    lease = await manager.acquire("a", "t", 7, {ResourceId(CORES, manager.node): 2})
    looks = 0
    sandbox = manager._held["t"].live()
    put_right = sandbox.put_right

    def counted() -> tuple[str, ...]:
        nonlocal looks
        looks += 1
        return put_right()

    sandbox.put_right = counted  # type: ignore[method-assign]
    await until(lambda: looks > 3)
    assert not manager.corrections()
    await manager.release(lease)


async def test_the_watch_survives_that_the_last_sandbox_closes(manager: CpuManager) -> None:
    watch = manager._drift._task
    assert watch is not None
    await manager.close("t")
    await until(watch.done)
    assert watch.exception() is None
